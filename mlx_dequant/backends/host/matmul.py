"""Products with a quantized matrix on the host, accumulated in float32."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...encoded import EncodedMatrix, Region
from .. import reference
from ..arrays import rounded
from . import memory, threads
from .dequantize import write_region
from .library import Run, library

RUN = 32  # columns in a step of loops/qvm.cpp
# The loops are compiled for these numbers of rows of x.
PASS_ROWS = (1, 4, 8)
# From this many rows of x on, dequantizing for the machine's BLAS is faster (bench/NOTES.md).
BLAS_ROWS = 25
# Weights dequantized at a time for BLAS: 16 MB of float32, which a third-level cache holds.
CHUNK = 1 << 22


def matmul(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W (`transpose`), or x [..., rows] @ W."""
    values = memory.floats(x).reshape(-1, x.shape[-1])
    if len(values) < BLAS_ROWS:
        run = library(matrix, "qmv" if transpose else "qvm")
        out = None if run is None else _few_rows(run, matrix, values, transpose)
    else:
        run = library(matrix, "dequantize")
        out = None if run is None else _by_blas(run, matrix, values, transpose)
    if out is None:
        return reference.matmul(matrix, x, transpose)
    return rounded(out.reshape(*x.shape[:-1], -1), x.dtype)


def _few_rows(run: Run, matrix: EncodedMatrix, x: np.ndarray, transpose: bool) -> np.ndarray:
    """Multiplies up to 8 rows of x at a time."""
    step = PASS_ROWS[-1]
    parts = [_pass(run, matrix, x[at : at + step], transpose) for at in range(0, len(x), step)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pass(run: Run, matrix: EncodedMatrix, x: np.ndarray, transpose: bool) -> np.ndarray:
    rows = len(x)
    count = next(count for count in PASS_ROWS if count >= rows)
    if count > rows:
        x = np.concatenate([x, np.zeros((count - rows, x.shape[1]), np.float32)])
    out = np.empty((count, matrix.rows if transpose else matrix.columns), np.float32)
    pointers = memory.pointers(matrix, memory.address(x), memory.address(out))
    params = _params(matrix, count)
    steps, step = (matrix.rows, matrix.columns) if transpose else (-(-matrix.columns // RUN), RUN * matrix.rows)
    threads.split(steps, step, lambda begin, end: run(pointers, params, begin, end))
    return out[:rows]


def _params(matrix: EncodedMatrix, M: int) -> bytes:
    """The launch parameters of a pass. They are cached, because packing them takes as long as a small product."""
    cached = matrix.cache.setdefault("host params", {})
    if M not in cached:
        cached[M] = memory.packed_params(matrix.params(M=M))
    return cached[M]


def _by_blas(run: Run, matrix: EncodedMatrix, x: np.ndarray, transpose: bool) -> np.ndarray:
    """Dequantizes up to `CHUNK` weights at a time, for NumPy's product."""
    step = max(CHUNK // matrix.columns, 1)
    dense = np.empty((min(step, matrix.rows), matrix.columns), np.float32)
    out = np.zeros((len(x), matrix.rows if transpose else matrix.columns), np.float32)
    for row in range(0, matrix.rows, step):
        end = min(row + step, matrix.rows)
        write_region(run, matrix, Region(row, end, 0, matrix.columns), dense.ctypes.data)
        part = dense[: end - row]
        if transpose:
            out[:, row:end] = x @ part.T
        else:
            out += x[:, row:end] @ part
    return out
