"""Functions of the families with groups."""

from __future__ import annotations

import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import numpy


def codes(words: np.ndarray, bits: int, axis: int, count: int) -> np.ndarray:
    """The first `count` codes along `axis` of packed `bits`-bit codes, lowest bits first."""
    words = np.moveaxis(words, axis, -1)
    octets = np.ascontiguousarray(words).view(np.uint8)
    code_bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., : count * bits]
    values = code_bits.reshape(*code_bits.shape[:-1], count, bits) @ (1 << np.arange(bits)).astype(np.int32)
    return np.moveaxis(values, -1, axis)


def scaled(q: np.ndarray, z: np.ndarray, s: np.ndarray) -> np.ndarray:
    """(q - z) * s in float32."""
    with np.errstate(all="ignore"):
        return (q - z).astype(np.float32) * s.astype(np.float32)


def group_of_inputs(matrix: EncodedMatrix) -> np.ndarray:
    """The group of each input."""
    g_idx = matrix.arrays.get("g_idx")
    return np.arange(matrix.K) // matrix.group_size if g_idx is None else numpy(g_idx)
