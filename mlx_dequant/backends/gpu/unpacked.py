"""Dequantized weights on a GPU: a whole matrix, a region of it, or the rows or columns that ids name."""

from __future__ import annotations

import mlx.core as mx

from ... import dispatch, dtypes, launches
from ...encoded import EncodedMatrix, Region
from .launch import bind, device


def dequantize(platform: str, matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights."""
    return region(platform, matrix, dtype, matrix.whole)


def region(platform: str, matrix: EncodedMatrix, dtype: mx.Dtype, part: Region) -> mx.array:
    """[part.rows, part.columns] weights."""
    bound = matrix.cache.setdefault("regions", {})
    key = (platform, dtype, part)
    if key not in bound:
        bound[key] = [
            bind(platform, matrix, launch) for launch in launches.dequantize(matrix, dtypes.name(dtype), part)
        ]
    parts = [run() for run in bound[key]]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def gather(platform: str, matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    An id out of range gives NaN, because a launch cannot read the ids and raise an error.
    """
    operation = "gather_columns" if axis else "gather_rows"
    plan = dispatch.plan(device(platform), matrix, ids.size, dtypes.name(dtype), operation)
    (launch,) = plan.passes[0].launches
    return bind(platform, matrix, launch, "int32")(_int32(ids))


def _int32(ids: mx.array) -> mx.array:
    """Ids as int32. Ids outside of int32 are clamped to its ends, which are out of range for every matrix."""
    if ids.dtype in (mx.int64, mx.uint32, mx.uint64):
        ids = mx.minimum(ids, 2**31 - 1)
    if ids.dtype == mx.int64:
        ids = mx.maximum(ids, -(2**31))
    return ids.astype(mx.int32)
