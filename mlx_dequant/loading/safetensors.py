"""safetensors files over `mmap`.

Layout: header length u64 | header, JSON {name: {dtype, shape, data_offsets}} | data. The offsets
count from the end of the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..weights.cut import Places, of_numpy
from .mapped import LARGEST_JSON, LONGEST, copy, open_map, parse_json, to_mlx, view

# By the file's name of a type: NumPy's type, and MLX's type where NumPy lacks it.
READABLE: dict[str, tuple[str, mx.Dtype | None]] = {
    "BOOL": ("?", None),
    "U8": ("<u1", None),
    "I8": ("<i1", None),
    "U16": ("<u2", None),
    "I16": ("<i2", None),
    "U32": ("<u4", None),
    "I32": ("<i4", None),
    "U64": ("<u8", None),
    "I64": ("<i8", None),
    "F16": ("<f2", None),
    "BF16": ("<u2", mx.bfloat16),
    "F32": ("<f4", None),
    "F64": ("<f8", mx.float64),
}
# Types that MLX lacks, and the bytes of an element.
OTHERS = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8}
# Types of which the codes may be asked for as bytes.
RAW = ("F8_E4M3", "F8_E8M0")
SIZES = {name: int(code[-1]) if code != "?" else 1 for name, (code, _) in READABLE.items()} | OTHERS
MAX_AXES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: the file's name of its type, shape, position and number of bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """An open safetensors file.

    Attributes:
        path: the file.
        metadata: the strings that its writer added.
        tensors: an `Entry` by name.

    Raises:
        FileNotFoundError: the file is missing.
        FormatError: a length, offset, shape or type in the header does not fit the rest.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._data = open_map(self.path)
        size = len(self._data)
        length = int.from_bytes(self._data[:8], "little")
        if size < 8 or length > min(size - 8, LARGEST_JSON):
            limit = max(min(size - 8, LARGEST_JSON), 0)
            raise self._fail(f"header: found a length of {length} bytes, expected at most {limit}")
        header = parse_json(self._data[8 : 8 + length], self.path.name)
        metadata = header.pop("__metadata__", None) or {}  # MLX writes null
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._fail("__metadata__: found other values than strings")
        self.metadata: Mapping[str, str] = MappingProxyType(metadata)
        # Each row is dropped as soon as it is read.
        tensors = {name: self._entry(name, header.pop(name), 8 + length) for name in list(header)}
        self.tensors: Mapping[str, Entry] = MappingProxyType(tensors)
        self._check_overlap()

    def read(self, name: str, raw: bool = False, places: Places | None = None) -> mx.array:
        """A tensor, copied out of the file.

        Args:
            raw: whether float8 and exponents are given, as their bytes: uint8.
            places: what to read of it, by default all.

        Raises:
            KeyError: the file has no such tensor.
            FormatError: MLX lacks its type, or it has no such places.
        """
        entry = self.tensors[name]
        if raw and entry.dtype in RAW:
            octets = view(self._data, entry.offset, entry.nbytes).reshape(entry.shape)
            return copy(self._data, of_numpy(octets, places), entry.offset, entry.nbytes)
        if entry.dtype not in READABLE:
            raise self._fail(f"tensor {name!r}: found {entry.dtype}, expected one of {', '.join(READABLE)}")
        code, dtype = READABLE[entry.dtype]
        values = view(self._data, entry.offset, entry.nbytes)
        # Any byte but 0 is true: a bool with another byte than 0 or 1 would be undefined.
        values = values != 0 if code == "?" else values.view(code)
        values = of_numpy(values.reshape(entry.shape), places)
        if entry.dtype == "F64":
            return to_mlx(values, mx.float64)
        result = copy(self._data, values, entry.offset, entry.nbytes)
        return result.view(dtype) if dtype else result

    def _entry(self, name: str, row: Any, start: int) -> Entry:
        what = f"tensor {name!r}"
        if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
            raise self._fail(f"{what}: found no dtype, shape and data_offsets")
        dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
        if not isinstance(dtype, str):
            raise self._fail(f"{what}: found dtype {dtype!r}, expected one of {', '.join(SIZES)}")
        if not _lengths(shape) or len(shape) > MAX_AXES or max(shape, default=0) > LONGEST:
            raise self._fail(
                f"{what}: found shape {_short(shape)}, expected at most {MAX_AXES} lengths up to {LONGEST}"
            )
        left = len(self._data) - start
        if not _lengths(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= left:
            raise self._fail(f"{what}: found data_offsets {_short(offsets)}, expected two in order up to {left}")
        # A type that is not known closes only its tensor.
        nbytes = prod(shape) * SIZES[dtype] if dtype in SIZES else offsets[1] - offsets[0]
        if offsets[1] - offsets[0] != nbytes:
            raise self._fail(f"{what}: found {offsets[1] - offsets[0]} bytes, expected {nbytes} for {dtype} {shape}")
        return Entry(dtype, tuple(shape), start + offsets[0], nbytes)

    def _check_overlap(self) -> None:
        end, before = 0, ""
        for name, entry in sorted(self.tensors.items(), key=lambda item: item[1].offset):
            if entry.nbytes:
                if entry.offset < end:
                    raise self._fail(f"tensor {name!r}: found at byte {entry.offset}, inside tensor {before!r}")
                end, before = entry.offset + entry.nbytes, name

    def _fail(self, what: str) -> FormatError:
        return FormatError(f"{self.path.name}: {what}")


def _lengths(value: Any) -> bool:
    return isinstance(value, list) and all(type(length) is int and length >= 0 for length in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
