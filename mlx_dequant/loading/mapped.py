"""Files as read-only maps, and arrays copied out of them."""

from __future__ import annotations

import errno
import json
import mmap
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError

LARGEST_JSON = 100_000_000  # bytes; safetensors' own limit on a header
# Values in a JSON text, each of which takes some 60 bytes of memory. A file of 80,000 tensors has as many.
MOST_VALUES = 850_000

LONGEST = 2**31 - 1  # MLX counts an axis in 32 bits
# Bytes, a multiple of every page's: Linux maps so many at once where one is read.
WINDOW = 1 << 16
PIECE = 8 << 20  # bytes of a tensor that are copied at a time

_bytes_read = 0


def files(folder: Path, pattern: str) -> list[Path]:
    """A folder's files, sorted, without the attributes that macOS keeps beside them elsewhere ("._model.gguf")."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("._"))


def bytes_read() -> int:
    """Bytes of tensors that this process has copied out of files so far."""
    return _bytes_read


# What other files begin with, and what they are.
_KINDS = {
    b"version https://git-lfs": "a git-lfs pointer, expected the file itself: run `git lfs pull`",
    **dict.fromkeys((b"<!DOCTYPE", b"<html"), "an HTML page, expected the file itself: download it again"),
    b"PK\x03\x04": "a zip or PyTorch file, expected GGUF or safetensors",
    **dict.fromkeys((b"ggml", b"lmgg", b"fmgg", b"tjgg"), "a GGML file from before GGUF, expected GGUF: convert it"),
}


def check_kind(start: bytes, name: str) -> None:
    """Refuses a file that is known, by its first bytes, to be something else.

    Raises:
        FormatError: it says what was found.
    """
    for magic, kind in _KINDS.items():
        if start.startswith(magic):
            raise FormatError(f"{name}: found {kind}")


class FileMap(mmap.mmap):
    """The bytes of a file, and its name."""

    name: str

    def check_size(self) -> None:
        """Reading pages that a file no longer has would end the process.

        Raises:
            FormatError: the file became shorter after it was opened.
        """
        if self.size() < len(self):
            raise FormatError(
                f"{self.name}: found {self.size()} bytes, expected the {len(self)} that it was opened with"
            )


def open_map(path: Path) -> FileMap:
    """The bytes of a file.

    Raises:
        FileNotFoundError: the file is missing.
        MemoryError: the process has no addresses left for it.
        FormatError: it is empty, or no regular file.
    """
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: found a folder or a device, expected a file")
    with path.open("rb") as file:
        try:
            data = FileMap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise FormatError(f"{path.name}: found an empty file") from None
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError(f"{path.name}: found no room to map {path.stat().st_size} bytes") from None
            raise
    data.name = path.name
    return data


def view(data: FileMap, offset: int, nbytes: int) -> NDArray[np.uint8]:
    """uint8 [nbytes] from `offset` on: a read-only view of the file."""
    data.check_size()
    return np.frombuffer(data, np.uint8, nbytes, offset)


def to_mlx(values: NDArray[Any], dtype: mx.Dtype | None = None) -> mx.array:
    """The values in MLX's memory.

    Raises:
        MemoryError: there is none left, where MLX itself would write to address 0.
    """
    np.empty(values.nbytes, np.uint8)
    return mx.array(values, dtype=dtype)


def copy(data: FileMap, values: NDArray[Any], offset: int, nbytes: int | None = None) -> mx.array:
    """`values`, some of `nbytes` bytes of the map from `offset` on, in MLX's memory; the file's pages are released.

    By default they are all of these bytes. Large ones go in pieces, so that few pages are in memory beside them.
    """
    global _bytes_read
    end = offset + (values.nbytes if nbytes is None else nbytes)
    _bytes_read += values.nbytes
    if values.nbytes <= PIECE:
        result = to_mlx(values)
        _release(data, offset, end)
        return result
    np.empty(values.nbytes, np.uint8)  # raises MemoryError, as in to_mlx
    rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 and values.flags.c_contiguous else values
    step = max(len(rows) * PIECE // values.nbytes, 1)
    result = mx.zeros(rows.shape, to_mlx(rows[:1]).dtype, stream=mx.cpu)
    own = np.asarray(result)  # a view
    for at in range(0, len(rows), step):
        own[at : at + step] = rows[at : at + step]
        _release(data, offset, end)
    return result.reshape(values.shape)


def _release(data: FileMap, offset: int, end: int) -> None:
    """Lets the system take back the pages from `offset` to `end`."""
    first = offset // WINDOW * WINDOW
    if end > offset:
        data.madvise(mmap.MADV_DONTNEED, first, -(-end // WINDOW) * WINDOW - first)


def parse_json(text: bytes, name: str, most: int = MOST_VALUES) -> dict[str, Any]:
    """A JSON object of at most so many values, without repeated keys."""
    if len(text) > LARGEST_JSON:
        raise FormatError(f"{name}: found {len(text)} bytes of JSON, expected at most {LARGEST_JSON}")
    values = sum(map(text.count, (b",", b"[", b"{")))
    if values > most:
        raise FormatError(f"{name}: found JSON of {values} values, expected at most {most}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise FormatError(f"{name}: key {key!r}: found twice")
            result[key] = value
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except FormatError:  # a ValueError too
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: found no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{name}: found JSON of type {type(value).__name__}, expected an object")
    return value


def json_size(path: Path) -> int:
    """Bytes of a JSON file that may be read: a file, not empty and not too large."""
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise FormatError(f"{path.name}: found {size} bytes of JSON, expected at most {LARGEST_JSON}")
    if not path.is_file():  # a device would be read for ever
        raise FormatError(f"{path.name}: found a folder or a device")
    if not size:
        raise FormatError(f"{path.name}: found an empty file")
    return size


def read_json(path: Path, most: int = MOST_VALUES) -> dict[str, Any]:
    """The JSON object of at most so many values that a file holds."""
    size = json_size(path)
    with path.open("rb") as file:
        text = file.read(size)
    check_kind(text[:64], path.name)
    return parse_json(text, path.name, most)
