"""Shared by the backends that read values: NumPy's view of an array, rounding, and the check of ids."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .. import dtypes
from ..encoded import EncodedMatrix


def stored(matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array | None:
    """[rows, columns] of a matrix that holds values of that type: a view of its bytes. None for any other."""
    blocks = matrix.arrays.get("blocks")
    if blocks is None or matrix.format.stored != dtypes.name(dtype):
        return None
    return blocks.view(dtype).reshape(matrix.rows, matrix.columns)


def numpy(array: mx.array | None) -> np.ndarray:
    """An array as a NumPy array; bfloat16 becomes float32."""
    assert array is not None
    if array.dtype == mx.bfloat16:
        with mx.stream(mx.cpu):
            high = np.asarray(array.view(mx.uint16))
        return (high.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array)


def rounded(exact: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """float32 values rounded to `dtype`, to nearest even."""
    if dtype == mx.bfloat16:
        bits = np.ascontiguousarray(exact).view(np.uint32)
        even = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        high = np.where(np.isnan(exact), bits >> 16 | 0x40, even)
        with mx.stream(mx.cpu):
            return mx.array(high.astype(np.uint16)).view(mx.bfloat16)
    if dtype == mx.float16:
        with np.errstate(over="ignore"):
            exact = exact.astype(np.float16)
    return mx.array(exact)


def checked_ids(ids: mx.array, count: int) -> np.ndarray:
    """int32 ids in 0 .. count - 1; negative ones count from the end."""
    values = numpy(ids).reshape(-1)
    if values.size and (values.min() < -count or values.max() >= count):
        raise IndexError(f"ids: found {values.min()} to {values.max()}, expected {-count} to {count - 1}")
    return np.where(values < 0, values + count, values).astype(np.int32)


def clamped_int32(ids: mx.array) -> mx.array:
    """Ids as int32. Ids outside of int32 are clamped to its ends, which are out of range for every matrix."""
    if ids.dtype in (mx.int64, mx.uint32, mx.uint64):
        ids = mx.minimum(ids, 2**31 - 1)
    if ids.dtype == mx.int64:
        ids = mx.maximum(ids, -(2**31))
    return ids.astype(mx.int32)
