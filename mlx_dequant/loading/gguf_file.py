"""GGUF files over `mmap`. Opening a file checks its header; everything else is read on access."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..weights import GGUFWeight
from ..weights.cut import Cut, Packing, Places, of_numpy
from .gguf_endian import little_endian
from .gguf_part import Part, TensorInfo
from .mapped import copy, to_mlx, view

NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class GGUFFile:
    """An open GGUF file, or all the parts of a split one.

    Attributes:
        path: the file (the first part of a split one).
        version: 2 or 3.
        alignment: bytes; every tensor's offset is a multiple.
        metadata: values by key: numbers, strings, lists of strings, NumPy arrays.
        tensors: a `TensorInfo` by name, in the file's order.

    Args:
        path: the file, or any part `…-00001-of-0000N.gguf` of a split one.

    Raises:
        FileNotFoundError: the file, or a part of it, is missing.
        FormatError: it is not a supported GGUF file, or a count, length, offset, alignment or type
            in it does not fit the rest.
    """

    def __init__(self, path: str | Path):
        self._parts = [Part(part, number) for number, part in enumerate(_parts(Path(path)))]
        first = self._parts[0]
        self.path, self.version = first.path, first.version
        self.alignment, self.metadata = first.alignment, first.metadata
        tensors: dict[str, TensorInfo] = {}
        for part in self._parts:
            part.check_split(len(self._parts))
            for name, info in part.tensors.items():
                if tensors.setdefault(name, info) is not info:
                    raise part.fail(f"tensor {name!r}: found in part {tensors[name].part + 1} too")
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        total = self.metadata.get("split.tensors.count", len(tensors))
        if len(self._parts) > 1 and total != len(tensors):
            raise first.fail(f"split.tensors.count: found {total}, expected {len(tensors)}")

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor: uint8 [..., row bytes], a read-only view of the file.

        Raises:
            FormatError: the type is not read here.
        """
        info = self.tensors[name]
        part = self._parts[info.part]
        if not info.type.readable:
            raise part.fail(f"tensor {name!r}: {info.type.missing}")
        row = info.shape[-1] // info.type.weights * info.type.bytes
        if not info.nbytes:
            return np.zeros((*info.shape[:-1], row), np.uint8)
        flat = view(part.data, info.offset, info.nbytes)
        if part.order == ">":
            flat = little_endian(flat, info.type, part.fail(f"tensor {name!r}"))
        return flat.reshape(*info.shape[:-1], row)

    def weight(self, name: str, cut: Cut | None = None) -> GGUFWeight:
        """A tensor as a quantized weight; its bytes are copied out of the file.

        Args:
            cut: the rows or columns to read, by default all.

        Raises:
            FormatError: the type is not read here, or is one of plain integers or float64, or cannot be cut so.
        """
        info = self.tensors[name]
        part = self._parts[info.part]
        if info.format is None:
            self.blocks(name)
            raise part.fail(f"tensor {name!r}: found type {info.type.title}, expected weights")
        if cut is None:
            return GGUFWeight(self._copied(name), info.format.name, info.shape)
        try:
            cut.check(info.shape)
            places = Packing(info.format).places("blocks", cut)
            return GGUFWeight(self._copied(name, places), info.format.name, cut.shape(info.shape))
        except FormatError as error:
            raise part.fail(f"tensor {name!r}: {error}") from None

    def read(self, name: str) -> GGUFWeight | mx.array:
        """A tensor: an array of the file's type for plain numbers, else a quantized weight.

        The shape is that of the key `comfy.gguf.orig_shape.NAME` where the file has it: diffusion models
        fold tensors into rows of whole blocks. Where its rows are not whole blocks, the weights are dequantized to
        float32.

        Raises:
            FormatError: the type is not read here, or the key's shape has another size.
        """
        info = self.tensors[name]
        if info.type.plain:
            raw = np.ascontiguousarray(self.blocks(name)).view(info.type.plain).reshape(info.shape)
            return to_mlx(raw, mx.float64 if info.type.plain == "f8" else None)
        weight = self.weight(name)
        shape = self._folded(name, info)
        assert info.format is not None
        if info.format.stored:
            return weight.dequantize().reshape(shape)
        if shape == info.shape:
            return weight
        if shape and shape[-1] % info.format.weights == 0:
            return GGUFWeight(self._copied(name), info.format.name, shape)
        return weight.dequantize(mx.float32).reshape(shape)

    def _copied(self, name: str, places: Places | None = None) -> mx.array:
        info, blocks = self.tensors[name], of_numpy(self.blocks(name), places)
        part = self._parts[info.part]
        if part.order == "<" and info.nbytes:
            return copy(part.data, blocks, info.offset, info.nbytes)
        return to_mlx(blocks)

    def _folded(self, name: str, info: TensorInfo) -> tuple[int, ...]:
        key = f"comfy.gguf.orig_shape.{name}"
        if key not in self.metadata:
            return info.shape
        found = self.metadata[key]
        shape = tuple(found.tolist()) if isinstance(found, np.ndarray) and found.dtype.kind in "iu" else None
        if shape is None or min(shape, default=0) < 0 or prod(shape) != prod(info.shape):
            raise self._parts[info.part].fail(
                f"{key}: found {found}, expected the lengths of {prod(info.shape)} weights"
            )
        return shape

    def __repr__(self) -> str:
        return f"GGUFFile({self.path.name}, version {self.version}, {len(self.tensors)} tensors)"


def _parts(path: Path) -> list[Path]:
    match = NAME.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise FormatError(f"{path.name}: found part {match['number']}, expected 00001 to {match['count']}")
    return [path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
