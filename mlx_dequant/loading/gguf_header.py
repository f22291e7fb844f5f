"""The header of a GGUF file: keys and the tensor table, with every number checked before it is used.

Layout (ggml's docs/gguf.md), in the file's byte order, strings as a uint64 length and UTF-8 bytes:

    "GGUF" | version u32 | tensors u64 | keys u64
    keys x     (name, type u32, value)               an array is: type u32, count u64, values
    tensors x  (name, axes u32, lengths u64..., type u32, offset u64)
    padding to the alignment | data, each tensor at its offset from here
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FormatError
from .mapped import FileMap

NUMBERS = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "b1", None, None, "u8", "i8", "f8")
STRING, ARRAY = 8, 9
MAX_AXES = 4
MAX_NAME = 65535  # bytes of a key, ggml's limit
# What takes more memory than it has bytes in the file is limited. Models have some 1,000 tensors, 300,000 tokens and
# 500,000 merges.
MOST_ROWS = 1 << 16
MOST_STRINGS = 1 << 20


@dataclass(frozen=True)
class Field:
    """Type and position of a key's value. `count` is None unless the value is an array."""

    type: int
    count: int | None
    start: int


class Cursor:
    """Reads forward through a map, and never past its end.

    `order` is "<" for a little-endian file, ">" for a big-endian one.
    """

    def __init__(self, data: FileMap, name: str, position: int = 0, order: str = "<"):
        self.data = data
        self.name = name
        self.position = position
        self.order = order
        self._u32, self._u64 = struct.Struct(f"{order}I"), struct.Struct(f"{order}Q")

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.name}: {what}")

    def skip(self, length: int, what: str) -> int:
        """Moves over `length` bytes, and returns the position of the first."""
        start, left = self.position, len(self.data) - self.position
        if length > left:
            raise self.fail(f"{what}: found {left} bytes left in the file, expected {length}")
        self.position = start + length
        return start

    def u32(self, what: str) -> int:
        return self._u32.unpack_from(self.data, self.skip(4, what))[0]

    def u64(self, what: str) -> int:
        return self._u64.unpack_from(self.data, self.skip(8, what))[0]

    def short_string(self, what: str) -> str:
        """A key or the name of a tensor."""
        length = self.u64(what)
        if length > MAX_NAME:
            raise self.fail(f"{what}: found a name of {length} bytes, expected at most {MAX_NAME}")
        start = self.skip(length, what)
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what}: found bytes that are not UTF-8") from None

    def count(self, what: str, smallest: int, most: int | None = None) -> int:
        """A number of elements, each of which takes at least `smallest` bytes."""
        count, left = self.u64(what), len(self.data) - self.position
        if count * smallest > left:
            raise self.fail(f"{what}: found {count}, expected at most {left // smallest} in the {left} bytes left")
        if most is not None and count > most:
            raise self.fail(f"{what}: found {count}, expected at most {most}")
        return count

    def skip_strings(self, count: int, what: str) -> None:
        # A vocabulary has hundreds of thousands of strings, so this loop does nothing else.
        unpack, data, position = self._u64.unpack_from, self.data, self.position
        try:
            for _ in range(count):
                position += 8 + unpack(data, position)[0]
        except (struct.error, IndexError, OverflowError):
            position = len(data) + 1
        if position > len(data):
            raise self.fail(f"{what}: found strings that run past the end of the file")
        self.position = position

    def strings(self, count: int, what: str) -> list[str]:
        """Strings that `skip_strings` has checked before."""
        unpack, data, end = self._u64.unpack_from, self.data, self.position
        values: list[str] = []
        try:
            for _ in range(count):
                start = end + 8
                end = start + unpack(data, end)[0]
                values.append(data[start:end].decode())
        except UnicodeDecodeError:
            raise self.fail(f"{what}: found bytes that are not UTF-8") from None
        except struct.error:
            raise self.fail(f"{what}: found other strings than when the file was opened") from None
        return values

    def field(self, key: str) -> Field:
        """The type and position of a key's value; moves past the value."""
        what, count = f"key {key!r}", None
        kind = self.u32(what)
        if kind == ARRAY:
            kind = self.u32(what)
            if kind == ARRAY:
                raise self.fail(f"{what}: found an array of arrays, expected one of numbers or strings")
            self._check(kind, what)
            if kind == STRING:
                count = self.count(what, 8, MOST_STRINGS)
            else:
                count = self.count(what, np.dtype(NUMBERS[kind]).itemsize)
        self._check(kind, what)
        field = Field(kind, count, self.position)
        if kind == STRING:
            self.skip_strings(1 if count is None else count, what)
        else:
            self.skip(np.dtype(NUMBERS[kind]).itemsize * (1 if count is None else count), what)
        return field

    def _check(self, kind: int, what: str) -> None:
        if kind >= len(NUMBERS):
            raise self.fail(f"{what}: found value type {kind}, expected 0 to {len(NUMBERS) - 1}")

    def value(self, field: Field, key: str) -> Any:
        """A value: a scalar, a string, a list of strings or a NumPy array (a copy)."""
        what, count = f"key {key!r}", 1 if field.count is None else field.count
        if field.type == STRING:
            values: Any = self.strings(count, what)
        else:
            raw = np.frombuffer(self.data, np.uint8, count * np.dtype(NUMBERS[field.type]).itemsize, field.start)
            if NUMBERS[field.type] == "b1":
                values = raw != 0
            else:
                numbers = raw.copy().view(f"{self.order}{NUMBERS[field.type]}")
                values = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
        if field.count is not None:
            return values
        return values[0] if field.type == STRING else values[0].item()

    def tensor(self, index: int) -> tuple[str, tuple[int, ...], int, int]:
        """A row of the tensor table: name, lengths (shortest stride first), type, offset."""
        name = self.short_string(f"tensor {index}")
        what = f"tensor {name!r}"
        axes = self.u32(what)
        if not 1 <= axes <= MAX_AXES:
            raise self.fail(f"{what}: found {axes} axes, expected 1 to {MAX_AXES}")
        lengths = tuple(self.u64(what) for _ in range(axes))
        return name, lengths, self.u32(what), self.u64(what)
