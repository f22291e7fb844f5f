"""The reference: plain arrays on the CPU, slow and obvious. Shares no code and no table with `metal/`.

Each family has a module here with its name and a function `weights(matrix)`: float32 [rows, columns].
"""

from __future__ import annotations

from importlib import import_module

import mlx.core as mx
import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import checked_ids, numpy, rounded


def available() -> bool:
    """Always true: it needs only NumPy."""
    return True


def weights(matrix: EncodedMatrix) -> np.ndarray:
    """float32 [rows, columns]."""
    exact: np.ndarray = import_module(f".{matrix.family.name}", __name__).weights(matrix)
    return exact.reshape(matrix.rows, matrix.columns)


def dequantize(matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights."""
    return rounded(weights(matrix), dtype)


def matmul(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W (`transpose`), or x [..., rows] @ W."""
    dense = weights(matrix)
    return rounded(numpy(x).astype(np.float32) @ (dense.T if transpose else dense), x.dtype)


def gather(matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1)."""
    dense = weights(matrix)
    dense = dense.T if axis else dense
    return rounded(np.ascontiguousarray(dense[checked_ids(ids, len(dense))]), dtype)
