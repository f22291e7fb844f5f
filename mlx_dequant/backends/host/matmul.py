"""Products with a quantized matrix on the host, accumulated in float32."""

from __future__ import annotations

import mlx.core as mx

from ...encoded import EncodedMatrix
from .. import experts, reference
from ..arrays import checked_ids, clamped_int32
from . import driver, lazy, memory


def matmul(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W (`transpose`), or x [..., rows] @ W."""
    operand = driver.operand(matrix, transpose, x.size // x.shape[-1])
    if operand is None and lazy.primitive() is None:
        return reference.matmul(matrix, x, transpose)
    if operand is None:  # x may have no values yet
        dense = reference.dequantize(matrix, mx.float32)
        return (x.astype(mx.float32) @ (dense.T if transpose else dense)).astype(x.dtype)
    if lazy.primitive() is not None:
        return lazy.product(matrix, operand, x)
    values = memory.contiguous(x)
    shape = (*x.shape[:-1], matrix.rows if transpose else matrix.columns)
    return memory.filled(shape, x.dtype, lambda out: driver.product(operand, x.dtype, values, out))


def gather_matmul(matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool, sorted: bool = False) -> mx.array:
    """[M, k, outputs]: row m of x [M, inputs] times the experts ids[m] of ids [M, k]; `transpose` as in `matmul`.

    The host needs no `sorted` ids.

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    operand = driver.operand(matrix, transpose, 0)
    if operand is None:
        return experts.gather_matmul(reference.matmul, matrix, x, ids, transpose)
    if lazy.primitive() is not None:
        return lazy.expert_product(matrix, operand, x, clamped_int32(ids))
    values, chosen = memory.contiguous(x), checked_ids(ids, matrix.experts).reshape(ids.shape)
    shape = (*ids.shape, matrix.rows // matrix.experts if transpose else matrix.columns)
    return memory.filled(shape, x.dtype, lambda out: driver.expert_product(operand, x.dtype, values, chosen, out))
