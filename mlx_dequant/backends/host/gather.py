"""Rows or columns of a quantized matrix, gathered on the host."""

from __future__ import annotations

import mlx.core as mx

from ...encoded import EncodedMatrix
from .. import reference
from ..arrays import checked_ids
from . import memory, threads
from .library import library


def gather(matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    run = library(matrix, "gather_columns" if axis else "gather_rows", dtype)
    if run is None:
        return reference.gather(matrix, ids, dtype, axis)
    count, length = (matrix.columns, matrix.rows) if axis else (matrix.rows, matrix.columns)
    rows = checked_ids(ids, count)
    params = memory.packed_params(matrix.params())

    def fill(address: int) -> None:
        pointers = memory.pointers(matrix, rows.ctypes.data, address)
        threads.split(len(rows), length, lambda begin, end: run(pointers, params, begin, end))

    return memory.filled((len(rows), length), dtype, fill)
