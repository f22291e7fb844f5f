"""Access to MLX's own memory for the host backend, without copies where that pays."""

from __future__ import annotations

import atexit
import ctypes
import json
import struct
import sys
import time
from collections.abc import Callable
from math import prod
from typing import NamedTuple
from weakref import WeakSet

import mlx.core as mx
import numpy as np

from ...encoded import EncodedMatrix, LaunchParams

# Below this many bytes, a copy into MLX is cheaper than having MLX allocate (measured: 1 MB in 30 us).
SMALL = 1 << 21

_HUGE_PAGE = 1 << 21
_MADV_HUGEPAGE = 14
_SAFETENSORS = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.complex64: "C64",
    mx.bool_: "BOOL",
    **{
        getattr(mx, f"{kind}{bits}"): f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
    },
}
_NUMPY = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}
_libc = ctypes.CDLL(None)


def view(array: mx.array) -> np.ndarray:
    """MLX's memory as a NumPy array; bfloat16 as uint16, because NumPy has no such type."""
    if array.dtype != mx.bfloat16:
        return np.asarray(array)
    try:
        return np.frombuffer(array, np.uint16).reshape(array.shape)  # pyright: ignore
    except BufferError:  # strided
        with mx.stream(mx.cpu):
            return view(mx.contiguous(array))


def contiguous(array: mx.array) -> np.ndarray:
    """The values in one piece of memory; bfloat16 as uint16."""
    return np.ascontiguousarray(view(array))


class Held(NamedTuple):
    """A matrix's arrays in the loader's order, each in one piece of memory.

    Attributes:
        arrays: zeros for an absent one.
        addresses: where they are.
        sizes: in bytes; 0 for an absent one.
    """

    arrays: list[mx.array]
    addresses: list[int]
    sizes: list[int]


def held(matrix: EncodedMatrix) -> Held:
    """The memory of a matrix, kept with it."""
    if "host" not in matrix.cache:
        given = [matrix.arrays[name] for name, _ in matrix.family.arrays]
        arrays = [mx.zeros(8, mx.int32) if array is None else _in_one_piece(array) for array in given]
        sizes = [0 if array is None else array.nbytes for array in given]
        matrix.cache["host"] = Held(arrays, [view(array).ctypes.data for array in arrays], sizes)
    return matrix.cache["host"]


def _in_one_piece(array: mx.array) -> mx.array:
    mx.eval(array)
    if array.dtype != mx.bfloat16 and view(array).flags.c_contiguous:
        return array
    with mx.stream(mx.cpu):
        array = mx.contiguous(array)
        mx.eval(array)
    return array


def address(array: np.ndarray) -> int:
    """The address of a writable array; `array.ctypes.data` takes five times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # pyright: ignore[reportArgumentType]


def pointers(matrix: EncodedMatrix, *more: int) -> bytes:
    """The addresses of the matrix's arrays, then `more`, as a loop takes them."""
    values = [*held(matrix).addresses, *more]
    return struct.pack(f"{len(values)}P", *values)


def packed_params(params: LaunchParams) -> bytes:
    """Launch parameters, as a loop takes them."""
    words = params.words
    return struct.pack(f"{len(words)}I", *words)


def filled(shape: tuple[int, ...], dtype: mx.Dtype, fill: Callable[[int], None]) -> mx.array:
    """A new array whose memory `fill(address)` wrote, every byte of it."""
    size = prod(shape) * dtype.size
    if size > SMALL:
        return _filled_in_place(shape, dtype, size, fill)
    out = np.empty(shape, _NUMPY[dtype])
    fill(out.ctypes.data)
    array = mx.array(out)
    if dtype == mx.bfloat16:
        with mx.stream(mx.cpu):
            array = array.view(mx.bfloat16)
    return array


def _filled_in_place(shape: tuple[int, ...], dtype: mx.Dtype, size: int, fill: Callable[[int], None]) -> mx.array:
    """Loads a file object whose content is written by `fill`: MLX allocates the memory and has the file write there."""
    np.empty(size, np.uint8)  # raises MemoryError, where MLX would write to address 0
    file = _Safetensors(shape, _SAFETENSORS[dtype], size, fill)
    loaded = mx.load(file, format="safetensors", stream=mx.cpu)  # pyright: ignore[reportArgumentType, reportCallIssue]
    array: mx.array = loaded["out"]  # pyright: ignore
    mx.eval(array)
    if file.error is not None:
        _files.discard(file)  # the error keeps it alive
        raise file.error
    return array


class _Safetensors:
    """A file object with one tensor, "out", written by `fill` when it is read."""

    closed = False

    def __init__(self, shape: tuple[int, ...], dtype: str, size: int, fill: Callable[[int], None]):
        entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
        header = json.dumps({"out": entry}).encode()
        self.header = len(header).to_bytes(8, "little") + header
        self.size = size
        self.fill = fill
        self.at = 0
        self.error: Exception | None = None
        _files.add(self)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, len(self.header) + self.size)[whence]
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        if self.at < len(self.header):
            part = self.header[self.at : self.at + len(buffer)]
            buffer[: len(part)] = part
            self.at += len(part)
            return len(part)
        if len(buffer) != self.size:
            self.error = RuntimeError(f"MLX read {len(buffer)} of {self.size} bytes at once")
            return 0
        try:
            out = np.frombuffer(buffer, np.uint8)
            _use_huge_pages(out.ctypes.data, self.size)
            self.fill(out.ctypes.data)
        except Exception as error:  # MLX would drop it, so the caller raises it.
            self.error = error
        self.at += self.size
        return self.size


# Files that a thread of MLX still holds, for a short time after the array is ready.
_files: WeakSet[_Safetensors] = WeakSet()


@atexit.register
def _wait_for_files() -> None:
    """Waits for them, a second at most: a thread that takes the GIL after Python has ended aborts the process."""
    end = time.monotonic() + 1
    while _files and time.monotonic() < end:
        time.sleep(0.001)


def _use_huge_pages(address: int, size: int) -> None:
    """Asks Linux for large pages, because each new page costs a page fault."""
    if sys.platform != "linux":
        return
    begin = -(-address // _HUGE_PAGE) * _HUGE_PAGE
    end = (address + size) // _HUGE_PAGE * _HUGE_PAGE
    if end > begin:
        _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)
