"""Dequantized weights on the host."""

from __future__ import annotations

import mlx.core as mx

from ...encoded import EncodedMatrix, Region
from .. import reference
from . import memory, threads
from .library import Run, library


def dequantize(matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights."""
    run = library(matrix, "dequantize", dtype)
    if run is None:
        return reference.dequantize(matrix, dtype)
    shape = (matrix.rows, matrix.columns)
    return memory.filled(shape, dtype, lambda address: write_region(run, matrix, matrix.whole, address))


def write_region(run: Run, matrix: EncodedMatrix, part: Region, address: int) -> None:
    """Writes the weights of the region `part` to `address`."""
    pointers = memory.pointers(matrix, address)
    params = memory.packed_params(matrix.params(part))
    threads.split(part.rows, part.columns, lambda begin, end: run(pointers, params, begin, end))
