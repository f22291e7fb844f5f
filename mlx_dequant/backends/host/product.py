"""Products with a packed weight on the host, accumulated in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from .. import reference
from ..launch import Region, sizes, whole
from . import memory, threads
from .dequantize import unpack
from .library import Run, library

if TYPE_CHECKING:
    from ...weights.base import QuantizedWeight

RUN = 32  # columns of a step of loops/qvm.cpp
# Vectors that one pass over the packed weight serves: the loops are compiled for these counts.
COUNTS = (1, 4, 8)
# From this many vectors on, unpacking for the machine's BLAS is faster (bench/NOTES.md).
MANY = 25
# Weights unpacked at a time for BLAS: 16 MB of float32, which a third-level cache holds.
CHUNK = 1 << 22


def product(weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] times the stored matrix transposed (`transpose`), or x [..., rows] times it."""
    given = memory.floats(x).reshape(-1, x.shape[-1])
    if len(given) < MANY:
        run = library(weight, "qmv" if transpose else "qvm")
        out = None if run is None else _sliced(run, weight, given, transpose)
    else:
        run = library(weight, "dequantize")
        out = None if run is None else _chunked(run, weight, given, transpose)
    if out is None:
        return reference.product(weight, x, transpose)
    return reference.rounded(out.reshape(*x.shape[:-1], -1), x.dtype)


def _sliced(run: Run, weight: QuantizedWeight, x: np.ndarray, transpose: bool) -> np.ndarray:
    """As many vectors at a time as the loops are compiled for."""
    most = COUNTS[-1]
    parts = [_packed(run, weight, x[at : at + most], transpose) for at in range(0, len(x), most)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _packed(run: Run, weight: QuantizedWeight, x: np.ndarray, transpose: bool) -> np.ndarray:
    given = len(x)
    count = next(count for count in COUNTS if count >= given)
    if count > given:
        x = np.concatenate([x, np.zeros((count - given, x.shape[1]), np.float32)])
    wide = weight.rows if transpose else weight.columns
    out = np.empty((count, wide), np.float32)
    pointers = memory.pointers(weight, memory.address(x), memory.address(out))
    numbers = _numbers(weight, count)
    steps, step = (weight.rows, weight.columns) if transpose else (-(-weight.columns // RUN), RUN * weight.rows)
    threads.split(steps, step, lambda begin, end: run(pointers, numbers, begin, end))
    return out[:given]


def _numbers(weight: QuantizedWeight, vectors: int) -> bytes:
    """`sizes` of a product, kept: they would take as long as the rest of a small call."""
    kept = weight.derived.setdefault("host product", {})
    if vectors not in kept:
        kept[vectors] = memory.numbers(sizes(weight, whole(weight), vectors))
    return kept[vectors]


def _chunked(run: Run, weight: QuantizedWeight, x: np.ndarray, transpose: bool) -> np.ndarray:
    """Unpacks some rows at a time and multiplies with them."""
    step = max(CHUNK // weight.columns, 1)
    dense = np.empty((min(step, weight.rows), weight.columns), np.float32)
    out = np.zeros((len(x), weight.rows if transpose else weight.columns), np.float32)
    for row in range(0, weight.rows, step):
        end = min(row + step, weight.rows)
        unpack(run, weight, Region(row, end, 0, weight.columns), dense.ctypes.data)
        part = dense[: end - row]
        if transpose:
            out[:, row:end] = x @ part.T
        else:
            out += x[:, row:end] @ part
    return out
