"""Products with the matrices of a stack, for the backends that read values: an expert at a time."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ..encoded import EncodedMatrix
from .arrays import checked_ids, numpy, rounded

Matmul = Callable[[EncodedMatrix, mx.array, bool], mx.array]


def expert(matrix: EncodedMatrix, number: int) -> EncodedMatrix:
    """A matrix of a stack. It is made once, and kept with the stack."""
    made = matrix.cache.setdefault("experts", {})
    if number not in made:
        one = matrix.expert(number)
        mx.eval([array for array in one.arrays.values() if array is not None])  # other threads could not
        made[number] = one
    return made[number]


def gather_matmul(matmul: Matmul, matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool) -> mx.array:
    """[M, k, outputs] by a backend's `matmul`: row m of x [M, inputs] times the experts ids[m] of ids [M, k].

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    chosen = checked_ids(ids, matrix.experts)
    order = np.argsort(chosen, kind="stable")
    values = numpy(x).astype(np.float32)
    numbers, first = np.unique(chosen[order], return_index=True)
    parts: list[np.ndarray] = []
    for number, pairs in zip(numbers, np.split(order, first[1:]), strict=True):
        rows = mx.array(values[pairs // ids.shape[1]])
        parts.append(numpy(matmul(expert(matrix, int(number)), rows, transpose)))
    out = np.empty((len(chosen), parts[0].shape[1]), np.float32)
    out[order] = np.concatenate(parts)
    return rounded(out.reshape(*ids.shape, -1), x.dtype)
