"""How far a matmul may be from its float64 result."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..act_order import sorted_size
from ..backends import GPUS
from ..encoded import EncodedMatrix
from ..tuning import EXACT_ROWS

F64 = NDArray[np.float64]

# How far rounding to a type moves a number: a part of it, and at least something near zero. Sums are float32 anyway.
UNIT = {mx.float32: 0.0, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
TINY = {mx.float32: 2.0**-149, mx.float16: 2.0**-25, mx.bfloat16: 2.0**-134}


@dataclass(frozen=True)
class Allowance:
    """What a result may be off by besides float32 sums and one rounding.

    Attributes:
        weight: of each weight, as a share of the largest.
        x: of each element of x, as a share of the largest.
        why: what is rounded.
        x_run: of each element of x, as a share of the largest of its `RUN`.
    """

    weight: float = 0.0
    x: float = 0.0
    why: str = ""
    x_run: float = 0.0


RUN = 32
EXACT = Allowance()
# Half a step of 127, and what float32 adds to it.
INT8 = Allowance(why="x rounded to 8 bits", x_run=(1 + 2.0**-15) / 254)


def matmul_bound(
    x: F64,
    dense: F64,
    dtype: mx.Dtype,
    rounds: bool = False,
    allowance: Allowance = EXACT,
    bias: F64 | None = None,
) -> tuple[F64, F64]:
    """x [M, K] @ dense [K, N] in float64, and the bound of each element's error.

    The bound covers sums in float32 in any order, factors that a GPU flushes, and one rounding to `dtype`.

    Args:
        rounds: the weights are rounded to `dtype` first.
        allowance: what else is rounded.
        bias: [N], added to what was rounded, and the sum rounded again.
    """
    expected, size, length = x @ dense, np.abs(x) @ np.abs(dense), len(dense)
    summed = length * 2.0**-24 / (1 - length * 2.0**-24) * size + length * 2.0**-120
    if rounds:
        summed += UNIT[dtype] * size + TINY[dtype] * np.abs(x).sum(axis=1, keepdims=True)
    if allowance.weight:
        summed += allowance.weight * np.abs(dense).max() * np.abs(x).sum(axis=1, keepdims=True)
    if allowance.x:
        summed += allowance.x * np.abs(x).max() * np.abs(dense).sum(axis=0)
    if allowance.x_run:
        largest = np.abs(x).reshape(len(x), -1, RUN).max(axis=2)
        summed += allowance.x_run * largest @ np.abs(dense).reshape(-1, RUN, dense.shape[1]).sum(axis=1)
    bound = _rounded(expected, summed, UNIT[dtype], TINY[dtype])
    if bias is None:
        return expected, bound
    return expected + bias, _rounded(expected + bias, bound, max(UNIT[dtype], 2.0**-24), TINY[dtype])


def _rounded(expected: F64, bound: F64, unit: float, tiny: float) -> F64:
    """The bound of what is within `bound` of `expected` and then rounded."""
    return bound + unit * (np.abs(expected) + bound) + tiny


def rounds_weights(backend: str, M: int, matrix: EncodedMatrix | None = None) -> bool:
    """Whether a backend multiplies M rows of x with weights rounded to x's type, as a GPU does for many rows.

    With a matrix, or a stack, that has act-order and cannot be sorted by group, it does so for any number of rows.
    """
    if backend not in GPUS:
        return False
    if matrix is None or not matrix.has_g_idx:
        return M > EXACT_ROWS
    return M > EXACT_ROWS or sorted_size(matrix, np.asarray(matrix.arrays["g_idx"])) is None


def rounded_weights(dtype: mx.Dtype) -> Allowance:
    """For a dense product of weights in x's type; in float32, MLX may round both factors to TF32."""
    if dtype == mx.float32:
        return Allowance(2.0**-11, 2.0**-11, "may use TF32")
    return Allowance(UNIT[dtype], why=f"weights rounded to {str(dtype).rpartition('.')[2]}")
