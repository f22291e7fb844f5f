"""Rows or columns of a quantized matrix on a GPU, by ids."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ... import dispatch, dtypes
from ...encoded import EncodedMatrix
from ..arrays import clamped_int32
from .launch import bind, bound, device


def gather(platform: str, matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    An id out of range gives NaN, because a launch cannot read the ids and raise an error.
    """
    operation = "gather_columns" if axis else "gather_rows"

    def look_up() -> Callable[..., mx.array]:
        plan = dispatch.plan(device(platform), matrix, ids.size, dtypes.name(dtype), operation)
        (launch,) = plan.launches
        return bind(platform, matrix, launch, "int32")

    run = bound.of((operation, platform, matrix.kind, ids.size, dtype), look_up)
    return run(matrix, clamped_int32(ids))
