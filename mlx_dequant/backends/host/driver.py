"""The host's driver: what surrounds the loops, compiled once for every format (cpp/driver.cpp)."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ...encoded import PARAMS, EncodedMatrix
from ...kernel_source import inline
from . import memory, precision, threads
from .compiler import compiled, warn_of_slowness
from .library import Loop, library

ARRAYS = 8
# The driver's number of a type.
TYPES = {mx.float32: 0, mx.float16: 1, mx.bfloat16: 2}


class Operand(ctypes.Structure):
    """A matrix and the loops of its products, as the driver takes them."""

    _fields_ = (
        ("params", ctypes.c_uint32 * len(PARAMS)),
        ("transpose", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("arrays", ctypes.c_void_p * ARRAYS),
        ("strides", ctypes.c_size_t * ARRAYS),
        ("experts", ctypes.c_size_t),
        ("one", ctypes.POINTER(Loop)),
        ("many", ctypes.POINTER(Loop)),
        ("int8", ctypes.POINTER(Loop)),
    )

    @property
    def inputs(self) -> int:
        """Inputs of a product; what a look-up's ids count."""
        return self.params[PARAMS.index("columns" if self.transpose else "rows")]

    @property
    def outputs(self) -> int:
        """Outputs of a product; the length of what a look-up finds."""
        return self.params[PARAMS.index("rows" if self.transpose else "columns")]


@cache
def driver() -> Any:
    """The driver's functions, or None, after a warning, if they cannot be compiled."""
    path = compiled("driver", inline([Path(__file__).parent / "cpp" / "driver.cpp"]), contract=False)
    if path is None:
        return None
    try:
        found = ctypes.CDLL(str(path))
        functions = found.product, found.expert_product, found.look_up, found.each_step
    except (OSError, AttributeError) as error:  # for example, the cache is on a disk mounted noexec
        warn_of_slowness("driver", error)
        return None
    operand, loop, pointer = ctypes.POINTER(Operand), ctypes.POINTER(Loop), ctypes.c_void_p
    size, number = ctypes.c_size_t, ctypes.c_uint
    product, expert_product, look_up, each_step = functions
    product.argtypes = (operand, number, pointer, size, pointer, number)
    expert_product.argtypes = (operand, number, pointer, pointer, size, size, pointer, number)
    look_up.argtypes = (operand, loop, number, pointer, size, pointer, number)
    each_step.argtypes = (loop, pointer, pointer, size, size, number)
    each_step.restype = None
    return found


def operand(matrix: EncodedMatrix, transpose: bool, rows: int) -> Operand | None:
    """The matrix for products, x @ W.T with `transpose`, or None if they cannot be compiled.

    It is kept with the matrix, whose memory it refers to.

    Args:
        rows: of x; other numbers are multiplied too, but more slowly. 0 if it is not known.
    """
    rounds = transpose and precision.current() == "int8" and "int8_codes" in matrix.format.traits
    kinds = (rows <= 1 or rounds, rows != 1, rounds)
    kept = matrix.cache.setdefault("host products", {})
    if (transpose, kinds) not in kept:
        names = ("qmv", "qmm_t", "qmv_int8") if transpose else ("qvm", "qmm", "")
        loops = [library(matrix, name) if wanted else None for name, wanted in zip(names, kinds, strict=True)]
        found = None
        if driver() is not None and [loop is not None for loop in loops] == list(kinds):
            found = _operand(matrix, transpose)
            found.one, found.many, found.int8 = (None if loop is None else ctypes.pointer(loop) for loop in loops)
        kept[transpose, kinds] = found
    return kept[transpose, kinds]


def table(matrix: EncodedMatrix, axis: int) -> Operand:
    """The matrix for look-ups of rows (axis 0) or columns (axis 1), kept as `operand` keeps one."""
    kept = matrix.cache.setdefault("host tables", {})
    if axis not in kept:
        kept[axis] = _operand(matrix, bool(axis))
    return kept[axis]


def _operand(matrix: EncodedMatrix, transpose: bool) -> Operand:
    count = max(matrix.experts, 1)
    held = memory.held(matrix)
    made = Operand(transpose=transpose, count=len(held.arrays), experts=matrix.experts)
    made.params[:] = replace(matrix, rows=matrix.rows // count, experts=0).params().words
    made.arrays[: made.count] = held.addresses
    made.strides[: made.count] = [size // count for size in held.sizes]
    return made


def product(operand: Operand, dtype: mx.Dtype, x: np.ndarray, out: int) -> None:
    """Writes x [..., inputs] of type `dtype`, in one piece of memory, times the matrix to `out`."""
    rows = x.size // x.shape[-1]
    _check(driver().product(operand, TYPES[dtype], memory.address(x), rows, out, threads.count()))


def expert_product(operand: Operand, dtype: mx.Dtype, x: np.ndarray, ids: np.ndarray, out: int) -> None:
    """Writes row m of x [M, inputs] times the experts ids[m] of int32 ids [M, k] to `out` [M, k, outputs]."""
    choices = ids.shape[1]
    addresses = memory.address(x), memory.address(ids)
    _check(driver().expert_product(operand, TYPES[dtype], *addresses, ids.size, choices, out, threads.count()))


def look_up(operand: Operand, loop: Loop, dtype: mx.Dtype, ids: np.ndarray, out: int) -> None:
    """Writes rows or columns by int32 ids [n], as `loop` gathers them, to `out` [n, length]; NaN out of range."""
    _check(driver().look_up(operand, loop, TYPES[dtype], memory.address(ids), ids.size, out, threads.count()))


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for a product's float32 values")


def each_step(loop: Loop, arrays: bytes, params: bytes, steps: int, weights: int) -> None:
    """Does all steps of a loop, of `weights` weights each, on several threads where they pay."""
    driver().each_step(loop, arrays, params, steps, weights, threads.count())
