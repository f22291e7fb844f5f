"""Dequantized weights on the host."""

from __future__ import annotations

import mlx.core as mx

from ...encoded import EncodedMatrix, Region
from .. import reference
from . import memory
from .driver import driver, each_step
from .library import Loop, library


def dequantize(matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights."""
    loop = library(matrix, "dequantize", dtype)
    if loop is None or driver() is None:
        return reference.dequantize(matrix, dtype)
    shape = (matrix.rows, matrix.columns)
    return memory.filled(shape, dtype, lambda address: write_region(loop, matrix, matrix.whole, address))


def write_region(loop: Loop, matrix: EncodedMatrix, part: Region, address: int) -> None:
    """Writes the weights of the region `part` to `address`."""
    params = memory.packed_params(matrix.params(part))
    each_step(loop, memory.pointers(matrix, address), params, part.rows, part.columns)
