"""Weights too large for memory, of which only a far corner was ever written."""

from __future__ import annotations

import mmap
import sys
from dataclasses import replace
from math import prod

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.backends.host import memory
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.encoded import EncodedMatrix, Region

GROUP = 32
# Python 3.13 names it. macOS reserves nothing anyway.
NORESERVE = 0x4000 if sys.platform == "linux" else 0


def sparse(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    return np.frombuffer(mmap.mmap(-1, prod(shape) * np.dtype(dtype).itemsize, flags=flags), dtype).reshape(shape)


class SparseWeight:
    """A matrix of `rows` x `columns` weights whose last 64 x 64 (or a row's last block) are `corner`'s.

    Attributes:
        matrix: what a backend reads, but for its arrays.
        arrays: those, by name: NumPy's, for a backend to find.
        corner: those weights as a weight of their own.
        region: where the corner lies.
    """

    def __init__(self, name: str, rows: int, columns: int):
        form = mxd.formats()[name]
        rng = np.random.default_rng(0)
        if form.family == "gguf":
            self.corner = sample_weights.gguf(name, rng, 64, 64)
        else:
            self.corner = sample_weights.groups(name, rng, 64, 64, GROUP, plain=True)
        small = self.corner.matrix
        self.region = Region(rows - small.rows, rows, columns - small.columns, columns)
        self.arrays = {
            key: _placed(np.array(array), rows // small.rows, columns // small.columns)
            for key, array in small.arrays.items()
            if array is not None
        }
        params = dict(small.loader_params)
        if form.family == "gguf":
            params["blocks_per_row"] = columns // form.weights
        elif form.family == "compressed_tensors":
            params["groups_per_row"] = columns // GROUP
        self.matrix = replace(small, rows=rows, columns=columns, loader_params=params, cache={})

    def on_host(self) -> EncodedMatrix:
        """The matrix as the host backend finds it."""
        arrays = [self.arrays.get(key) for key, _ in self.matrix.family.arrays]
        addresses = [0 if array is None else array.ctypes.data for array in arrays]
        self.matrix.cache["host"] = memory.Held([], addresses, [])
        return self.matrix

    def expected(self) -> np.ndarray:
        """float32 of the corner."""
        with mxd.use_backend("reference"), np.errstate(all="ignore"):
            return np.array(self.corner.dequantize(mx.float32))


def _placed(small: np.ndarray, down: int, across: int) -> np.ndarray:
    """The array of a matrix `down` times as high and `across` times as wide; `small` is its last corner."""
    large = sparse((small.shape[0] * down, small.shape[1] * across), small.dtype)
    large[-small.shape[0] :, -small.shape[1] :] = small
    return large
