"""Weights too large for memory, of which only a far corner was ever written."""

from __future__ import annotations

import mmap
import sys
from math import prod
from types import SimpleNamespace

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.backends.launch import Region
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.kernel_source import INPUTS

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
        weight: what a backend reads of a weight, with its arrays in `arrays` by name.
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
        high, wide = self.corner.rows, self.corner.columns
        self.region = Region(rows - high, rows, columns - wide, columns)
        self.arrays = {}
        for key, _ in INPUTS[form.family]:
            small = self.corner.inputs[key]
            if small is not None:
                self.arrays[key] = _placed(np.array(small), rows // high, columns // wide)
        self.weight = SimpleNamespace(
            format=form,
            rows=rows,
            columns=columns,
            shape=(rows, columns),
            layout=self._layout(columns),
            scales_dtype=self.corner.scales_dtype,
            has_g_idx=self.corner.has_g_idx,
            inputs=self.corner.inputs,
            derived={},
        )

    def _layout(self, columns: int) -> tuple[int, ...]:
        form, layout = self.corner.format, self.corner.layout
        if form.family == "gguf":
            return (columns // form.weights,)
        return (*layout[:-1], columns // GROUP) if form.family == "compressed_tensors" else layout

    def on_host(self) -> SimpleNamespace:
        """The weight as the host backend finds it."""
        arrays = [self.arrays.get(key) for key, _ in INPUTS[self.weight.format.family]]
        self.weight.derived["host"] = arrays, [0 if array is None else array.ctypes.data for array in arrays]
        return self.weight

    def expected(self) -> np.ndarray:
        """float32 of the corner."""
        with mxd.use_backend("reference"), np.errstate(all="ignore"):
            return np.array(self.corner.dequantize(mx.float32))


def _placed(small: np.ndarray, down: int, across: int) -> np.ndarray:
    """The array of a matrix `down` times as high and `across` times as wide; `small` is its last corner."""
    large = sparse((small.shape[0] * down, small.shape[1] * across), small.dtype)
    large[-small.shape[0] :, -small.shape[1] :] = small
    return large
