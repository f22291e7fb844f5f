"""GGUF files over `mmap`. Opening a file checks its header; everything else is read on access."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..weights import GGUFWeight
from .gguf_part import Part, TensorInfo
from .mapped import copy, view

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
        """The bytes of a tensor: uint8 [..., row bytes], a read-only view of the file."""
        info = self.tensors[name]
        flat = view(self._parts[info.part].data, info.offset, info.nbytes)
        return flat.reshape(*info.shape[:-1], info.shape[-1] // info.format.weights * info.format.bytes)

    def weight(self, name: str) -> GGUFWeight:
        """A tensor as a quantized weight; its bytes are copied out of the file."""
        info = self.tensors[name]
        blocks = copy(self._parts[info.part].data, self.blocks(name), info.offset)
        return GGUFWeight(blocks, info.format.name, info.shape)

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
