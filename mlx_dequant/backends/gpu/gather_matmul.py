"""Products with matrices of a stack on a GPU, by ids."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ... import dtypes, launches
from ...encoded import EncodedMatrix
from ...kernels import THREADS
from ...launches import MAX_THREADS
from ..arrays import clamped_int32
from .launch import bind, device

Product = Callable[[mx.array, mx.array], mx.array]


def gather_matmul(platform: str, matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool) -> mx.array:
    """[M, k, outputs]: row m of x [M, inputs] times the experts ids[m] of ids [M, k]. An id out of range gives NaN."""
    M, k = ids.shape
    step = max(_pairs(matrix) // k, 1)
    if step < M:
        parts = [(x[at : at + step], ids[at : at + step]) for at in range(0, M, step)]
        return mx.concatenate([gather_matmul(platform, matrix, *part, transpose) for part in parts])
    key = (M, k, x.dtype, transpose)
    product: Product = matrix.kept(f"{platform} experts", key, lambda: _product(platform, matrix, *key))
    return product(x, clamped_int32(ids).reshape(-1)).reshape(M, k, -1)


def _pairs(matrix: EncodedMatrix) -> int:
    """Pairs of a row of x and an expert in a launch: a threadgroup of each makes 8 results or more."""
    outputs = max(matrix.rows // matrix.experts, matrix.columns)
    return MAX_THREADS // THREADS // -(-outputs // 8)


def _product(platform: str, matrix: EncodedMatrix, M: int, k: int, dtype: mx.Dtype, transpose: bool) -> Product:
    launch = launches.gather_few(device(platform), matrix, M, k, dtypes.name(dtype), transpose)
    return bind(platform, matrix, launch, dtypes.name(dtype))
