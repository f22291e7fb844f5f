"""Rows or columns of a quantized matrix, gathered on the host."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from ...encoded import EncodedMatrix
from .. import reference
from ..arrays import checked_ids, clamped_int32
from . import driver, lazy, memory
from .library import library


def gather(matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    loop = library(matrix, "gather_columns" if axis else "gather_rows", dtype)
    if loop is None and lazy.primitive() is not None:  # ids may have no values yet
        dense = reference.dequantize(matrix, dtype)
        return (dense.T if axis else dense)[ids]
    if loop is None or driver.driver() is None:
        return reference.gather(matrix, ids, dtype, axis)
    table = driver.table(matrix, axis)
    if lazy.primitive() is not None:
        return lazy.look_up(matrix, table, loop, clamped_int32(ids), dtype)
    rows = checked_ids(ids, table.inputs)
    fill = partial(driver.look_up, table, loop, dtype, rows)
    return memory.filled((len(rows), table.outputs), dtype, fill)
