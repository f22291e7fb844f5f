"""One GGUF file: its header and its tensor table, checked against the file's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FormatError
from ..registry import Format
from .gguf_header import MOST_ROWS, Cursor
from .gguf_metadata import Metadata
from .gguf_types import TensorType, tensor_type
from .mapped import LONGEST, check_kind, open_map, view

VERSIONS = (2, 3)
TAIL = 1 << 16  # bytes behind the last tensor that are looked at


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file.

    Attributes:
        name: its name in the file.
        type: its type, which may have no reader here.
        shape: lengths in weights, the longest stride first (ggml lists them the other way round).
        offset: position of its first byte in its file.
        nbytes: number of its bytes; for a type of unknown size, those up to the next tensor or the file's end.
        part: number of its file, from 0, if a model is split.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    part: int = 0

    @property
    def format(self) -> Format | None:
        """Its row of `mlx_dequant.formats()`; None for integers, F64 and types that are not read."""
        return self.type.format


class Part:
    """One file of a model. Opening it checks the header and the tensor table."""

    def __init__(self, path: Path, number: int):
        self.path, self.number = path, number
        self.data = open_map(path)
        if self.data[:4] != b"GGUF":
            check_kind(self.data[:64], path.name)
            raise self.fail(f"found {self.data[:4]!r} at the start, expected b'GGUF'")
        self.order = "<" if any(self.data[4:6]) else ">"  # versions are small numbers
        self._cursor = cursor = Cursor(self.data, path.name, position=4, order=self.order)
        self.version = cursor.u32("version")
        if self.version not in VERSIONS:
            raise self.fail(f"found GGUF version {self.version}, expected one of {', '.join(map(str, VERSIONS))}")
        # The smallest row of each table: an empty name, and the smallest value or one axis.
        tensors = cursor.count("number of tensors", 8 + 4 + 8 + 4 + 8, MOST_ROWS)
        keys = cursor.count("number of keys", 8 + 4 + 1, MOST_ROWS)
        self.metadata = Metadata(cursor, keys)
        self.alignment = self._alignment()
        self.tensors = self._table(tensors)

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.path.name}: {what}")

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if type(value) is not int or value <= 0 or value & (value - 1):
            raise self.fail(f"general.alignment: found {value!r}, expected a power of two")
        return value

    def _table(self, count: int) -> dict[str, TensorInfo]:
        rows = [self._cursor.tensor(index) for index in range(count)]
        self.start = self._padded(self._cursor.position)
        tensors: dict[str, TensorInfo] = {}
        for row in rows:
            info = self._info(*row)
            if tensors.setdefault(info.name, info) is not info:
                raise self.fail(f"tensor {info.name!r}: found twice")
        return tensors | self._fill(sorted(tensors.values(), key=lambda info: (info.offset, info.nbytes)))

    def _padded(self, position: int) -> int:
        return -(-position // self.alignment) * self.alignment

    def _info(self, name: str, lengths: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        form = tensor_type(kind)
        if max(lengths) > LONGEST:
            raise self.fail(f"tensor {name!r}: found shape {lengths[::-1]}, expected lengths up to {LONGEST}")
        if form.bytes and lengths[0] % form.weights:
            expected = f"a multiple of {form.weights} ({form.title})"
            raise self.fail(f"tensor {name!r}: found rows of {lengths[0]} weights, expected {expected}")
        nbytes = form.bytes * (lengths[0] // max(form.weights, 1))
        if nbytes > LONGEST:
            raise self.fail(f"tensor {name!r}: found rows of {nbytes} bytes, expected at most {LONGEST}")
        for length in lengths[1:]:
            nbytes *= length
        if offset % self.alignment:
            raise self.fail(f"tensor {name!r}: found offset {offset}, expected a multiple of {self.alignment}")
        left = len(self.data) - self.start - offset
        if nbytes > max(left, 0):
            raise self.fail(
                f"tensor {name!r}: found {max(left, 0)} bytes left in the file, expected {nbytes} ({form.title})"
            )
        return TensorInfo(name, form, lengths[::-1], self.start + offset, nbytes, self.number)

    def _fill(self, tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
        """Checks that each tensor reaches to the next one, as llama.cpp does: a fork's type may have the number of
        another, with blocks of another size. A tensor of unknown size gets the bytes up to the next."""
        sized: dict[str, TensorInfo] = {}
        end, before = self.start, "the header"
        ends = [info.offset for info in tensors[1:]] + [len(self.data)]
        for info, limit in zip(tensors, ends, strict=False):
            if info.offset != end:
                how = (
                    f"inside {before}" if info.offset < end else f"{info.offset - end} bytes behind the end of {before}"
                )
                raise self.fail(f"tensor {info.name!r}: found at byte {info.offset}, {how}, expected at byte {end}")
            if not info.type.bytes and 0 not in info.shape:
                sized[info.name] = info = replace(info, nbytes=max(min(limit, len(self.data)) - info.offset, 0))
            end, before = self._padded(info.offset + info.nbytes), f"tensor {info.name!r} ({info.type.title})"
        left = min(max(len(self.data) - end, 0), TAIL)
        if tensors and left and view(self.data, end, left).any():
            raise self.fail(f"found {len(self.data) - end} bytes behind the end of {before}, expected none")
        return sized

    def check_split(self, parts: int) -> None:
        count, number = self.metadata.get("split.count", 0), self.metadata.get("split.no", 0)
        if parts == 1 and count in (0, 1):
            return
        if count != parts:
            raise self.fail(f"split.count: found {count}, expected {parts} (the files named …-of-{parts:05d}.gguf)")
        if number != self.number:
            raise self.fail(f"split.no: found {number}, expected {self.number}")
