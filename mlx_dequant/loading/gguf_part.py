"""One GGUF file: its header and its tensor table, checked against the file's size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from ..registry import Format, formats, gguf_format
from .gguf_header import Cursor
from .gguf_metadata import Metadata
from .mapped import open_map

VERSIONS = (2, 3)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file.

    Attributes:
        name: its name in the file.
        format: its row of `mlx_dequant.formats()`.
        shape: lengths in weights, the longest stride first (ggml lists them the other way round).
        offset: position of its first byte in its file.
        nbytes: number of its bytes.
        part: number of its file, from 0, if a model is split.
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    part: int = 0


class Part:
    """One file of a model. Opening it checks the header and the tensor table."""

    def __init__(self, path: Path, number: int):
        self.path, self.number = path, number
        self.data = open_map(path)
        if self.data[:4] != b"GGUF":
            raise self.fail(f"found {self.data[:4]!r} at the start, expected b'GGUF'")
        self._cursor = cursor = Cursor(self.data, path.name, position=4)
        self.version = cursor.u32("version")
        if self.version & 0xFFFF == 0:
            raise self.fail("found a big-endian file, expected a little-endian one")
        if self.version not in VERSIONS:
            raise self.fail(f"found GGUF version {self.version}, expected one of {', '.join(map(str, VERSIONS))}")
        # The smallest row of each table: an empty name, and the smallest value or one axis.
        tensors = cursor.count("number of tensors", 8 + 4 + 8 + 4 + 8)
        keys = cursor.count("number of keys", 8 + 4 + 1)
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
        start = -(-self._cursor.position // self.alignment) * self.alignment
        tensors: dict[str, TensorInfo] = {}
        for row in rows:
            info = self._info(*row, start)
            if tensors.setdefault(info.name, info) is not info:
                raise self.fail(f"tensor {info.name!r}: found twice")
        before = None
        for info in sorted(tensors.values(), key=lambda info: info.offset):
            if before and before.offset + before.nbytes > info.offset:
                raise self.fail(f"tensor {info.name!r}: found at byte {info.offset}, inside tensor {before.name!r}")
            before = info
        return tensors

    def _info(self, name: str, lengths: tuple[int, ...], kind: int, offset: int, start: int) -> TensorInfo:
        form = gguf_format(kind)
        if form is None:
            known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
            raise self.fail(f"tensor {name!r}: found type {_type_name(kind)}, expected one of {known}")
        if lengths[0] % form.weights:
            expected = f"a multiple of {form.weights} ({form.title})"
            raise self.fail(f"tensor {name!r}: found rows of {lengths[0]} weights, expected {expected}")
        nbytes = form.bytes * (lengths[0] // form.weights)
        for length in lengths[1:]:
            nbytes *= length
        if offset % self.alignment:
            raise self.fail(f"tensor {name!r}: found offset {offset}, expected a multiple of {self.alignment}")
        left = len(self.data) - start - offset
        if nbytes > left:
            raise self.fail(f"tensor {name!r}: found {max(left, 0)} bytes left in the file, expected {nbytes}")
        return TensorInfo(name, form, lengths[::-1], start + offset, nbytes, self.number)

    def check_split(self, parts: int) -> None:
        count, number = self.metadata.get("split.count", 0), self.metadata.get("split.no", 0)
        if parts == 1 and count in (0, 1):
            return
        if count != parts:
            raise self.fail(f"split.count: found {count}, expected {parts} (the files named …-of-{parts:05d}.gguf)")
        if number != self.number:
            raise self.fail(f"split.no: found {number}, expected {self.number}")


def _type_name(kind: int) -> str:
    import gguf  # slow to import, and needed only for the message

    return next((known.name for known in gguf.GGMLQuantizationType if known.value == kind), str(kind))
