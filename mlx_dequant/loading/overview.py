"""What a quantized folder holds, by reading one module of each kind."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx

from .. import dtypes
from ..errors import FormatError
from ..weights.stored import NAME
from . import stored
from .checkpoint import of_folder
from .folder import Folder
from .modules import packed_modules
from .safetensors import READABLE
from .schemes import scheme


@dataclass(frozen=True)
class Kind:
    """Modules, or plain tensors, that are stored alike.

    Attributes:
        title: the format, "GPTQ 4-bit", or the type of plain tensors, "F16".
        shape: of each weight as it is multiplied, (out, in); None for plain tensors.
        names: of the modules or tensors.
        weights: how many numbers they stand for.
        nbytes: in the files.
        unread: why they cannot be read; "" if they can.
    """

    title: str
    shape: tuple[int, ...] | None
    names: tuple[str, ...]
    weights: int
    nbytes: int
    unread: str


def kinds(path: Path) -> tuple[str, str, list[Kind]]:
    """A folder's format, its model type ("" if config.json has none), and what it holds in the files' order.

    Raises:
        As `mlx_dequant.load` does.
    """
    folder = Folder(path)
    checkpoint = of_folder(folder)
    modules = _modules(folder)
    used = {tensor for _, tensors in modules.values() for tensor in tensors}
    groups: dict[Hashable, list[str]] = {}
    for name, (how, tensors) in modules.items():
        entries = [(tensor.rpartition(".")[2], folder.tensors[tensor].tensors[tensor]) for tensor in tensors]
        parts = tuple(sorted((part, entry.dtype, entry.shape) for part, entry in entries))
        groups.setdefault((how, parts), []).append(name)
    result: list[Kind] = []
    for names in groups.values():
        nbytes = sum(folder.tensors[t].tensors[t].nbytes for name in names for t in modules[name][1])
        title, shape, unread = "unread", None, ""
        try:
            weight = checkpoint.weights[names[0]]
        except FormatError as error:
            unread = str(error).rpartition(f"module {names[0]!r}: ")[2]
        else:
            if isinstance(weight, mx.array):
                title, shape = dtypes.name(weight.dtype), weight.shape
            else:
                title, shape = weight.format.title, (*weight.shape[:-2], weight.out_features, weight.in_features)
        result.append(Kind(title, shape, tuple(names), len(names) * prod(shape or (0,)), nbytes, unread))
    return checkpoint.format, str(checkpoint.config.get("model_type") or ""), result + _plain(folder, used)


def _modules(folder: Folder) -> dict[str, tuple[Hashable, list[str]]]:
    """Of each module: how it is stored, besides its tensors' types and shapes, and those tensors."""
    own = stored.modules(folder.tensors)
    if own:
        return {name: (bytes(folder.read(f"{name}.{NAME}")), tensors) for name, tensors in own.items()}
    modules = packed_modules(folder, scheme(folder.quantization))
    return {name: ((each.layout, each.settings), list(each.names.values())) for name, each in modules.items()}


def _plain(folder: Folder, used: set[str]) -> list[Kind]:
    types: dict[str, list[str]] = {}
    for name, file in folder.tensors.items():
        if name not in used:
            types.setdefault(file.tensors[name].dtype, []).append(name)
    result: list[Kind] = []
    for dtype, names in types.items():
        entries = [folder.tensors[name].tensors[name] for name in names]
        unread = "" if dtype in READABLE else f"found {dtype}, expected one of {', '.join(READABLE)}"
        numbers = sum(prod(entry.shape) for entry in entries)
        result.append(Kind(dtype, None, tuple(names), numbers, sum(entry.nbytes for entry in entries), unread))
    return result
