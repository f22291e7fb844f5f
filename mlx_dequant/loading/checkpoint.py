"""`load` for every kind of checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..weights import QuantizedWeight
from ..weights.cut import Cut, Packing
from ..zero_points import ZERO_POINTS
from . import stored
from .folder import Folder
from .gguf_file import GGUFFile
from .modules import find_zero_points, packed_modules, packing, read
from .schemes import scheme


class Weights(Mapping[str, "QuantizedWeight | mx.array"]):
    """Weights by name. Each access reads a weight from its file; nothing is cached."""

    def __init__(
        self, readers: dict[str, Callable[..., QuantizedWeight | mx.array]], packings: Callable[[str], Packing | None]
    ):
        self._readers, self._packings = readers, packings

    def __getitem__(self, name: str) -> QuantizedWeight | mx.array:
        return self.part(name, None)

    def part(self, name: str, cut: Cut | None) -> QuantizedWeight | mx.array:
        """Some rows or columns of a weight; all of it without a cut.

        Only their bytes are read where the weight has the file's own arrays: GGUF's, GPTQ's, AWQ's,
        compressed-tensors' of 2, 4 and 8 bits, and this package's own. Other layouts are read whole.

        Raises:
            FormatError: it cannot be cut so.
        """
        weight = self._readers[name](**({} if cut is None else {"cut": cut}))
        if isinstance(weight, mx.array):
            mx.eval(weight)  # a lazy array belongs to the thread that made it
        return weight

    def units(self, name: str, columns: int) -> tuple[int, int]:
        """Numbers of rows and columns by whose multiples a weight [..., out, columns] can be cut."""
        packing = self._packings(name)
        return packing.units(columns) if packing else (1, 1)

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(frozen=True)
class Checkpoint:
    """The weights and metadata of a checkpoint.

    Attributes:
        path: the file or folder.
        format: "gguf", or a folder's method: "gptq", "awq", "compressed-tensors", "fp8", "fbgemm_fp8", "mxfp4"
            or "modelopt"; "mlx-dequant" for one that this package wrote.
        weights: weights by name, read lazily; one that cannot be read raises FormatError when asked for. GGUF: the
            file's own tensor names; plain floats and integers are `mx.array` in their own type (MLX has float64
            on the CPU only), all others `GGUFWeight`. Folders: module names
            ("model.layers.0.mlp.up_proj") for quantized layers, tensor names ("model.norm.weight") for the rest.
        metadata: GGUF: the file's keys. Folders: the strings in the headers of the safetensors files.
        config: config.json; empty for GGUF.
    """

    path: Path
    format: str
    weights: Weights = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)


def load(path: str | Path, zero_points: str | None = None) -> Checkpoint:
    """Opens a quantized checkpoint; weights are read on access.

    Args:
        path: a GGUF file (any part of a split one), or a Hugging Face folder with safetensors
            quantized by GPTQ, AWQ, compressed-tensors, auto-round, FP8 or ModelOpt, or saved by mlx-lm
            from a model of `mlx_dequant.lm.load`.
        zero_points: "v1", "v1-field" or "v2" (see `GPTQWeight`), instead of the kind that a GPTQ folder says.

    Warns:
        UserWarning: the zero points of a symmetric GPTQ folder are stored in another way than its config says.
            They are decoded as stored, unless `zero_points` is given.

    Raises:
        FileNotFoundError: the file or folder, or a file it names, is missing.
        FormatError: the format is not supported, or a file is corrupt.
    """
    path = Path(path)
    if zero_points is not None and zero_points not in ZERO_POINTS:
        raise FormatError(f"zero_points: found {zero_points!r}, expected one of {', '.join(ZERO_POINTS)}")
    return of_folder(Folder(path), zero_points) if path.is_dir() else _load_gguf(path)


def _load_gguf(path: Path) -> Checkpoint:
    file = GGUFFile(path)
    weights = Weights({name: partial(_read_gguf, file, name) for name in file.tensors}, partial(_gguf_packing, file))
    return Checkpoint(path, "gguf", weights, file.metadata, {})


def _read_gguf(file: GGUFFile, name: str, cut: Cut | None = None) -> QuantizedWeight | mx.array:
    return file.read(name) if cut is None else file.weight(name, cut)


def _gguf_packing(file: GGUFFile, name: str) -> Packing | None:
    form = file.tensors[name].format
    return Packing(form) if form else None


def of_folder(folder: Folder, zero_points: str | None = None) -> Checkpoint:
    """The weights of an open folder, as `load` gives them."""
    path = folder.path
    own = stored.readers(folder.tensors, folder.read, path.name)
    if own:
        described = partial(stored.packing, folder.tensors, folder.read)
        return Checkpoint(path, stored.METHOD, Weights(own, described), folder.metadata, folder.config)
    try:
        quantization = scheme(folder.quantization)
    except FormatError as error:
        raise FormatError(f"{path.name}: {error}") from None
    modules = packed_modules(folder, quantization)
    if not modules:
        raise FormatError(f"{path.name}: found no module packed as {quantization.format}")
    if quantization.format == "gptq" and zero_points is None:
        zero_points = find_zero_points(folder, modules, quantization.zero_points)
    readers: dict[str, Callable[..., QuantizedWeight | mx.array]] = {
        name: partial(read, folder, name, module, zero_points or "") for name, module in modules.items()
    }
    used = {name for module in modules.values() for name in module.names.values()}
    readers |= {name: partial(folder.read, name) for name in folder.tensors if name not in used}
    return Checkpoint(
        path, quantization.format, Weights(readers, partial(packing, folder, modules)), folder.metadata, folder.config
    )
