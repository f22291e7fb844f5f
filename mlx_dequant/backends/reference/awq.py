"""AWQ: nibbles in the order 0 2 4 6 1 3 5 7 of the outputs."""

from __future__ import annotations

import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import numpy
from .groups import codes, group_of_inputs, scaled


def weights(matrix: EncodedMatrix) -> np.ndarray:
    nibble = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    column = np.arange(matrix.N) // 8 * 8 + nibble[np.arange(matrix.N) % 8]
    q = codes(numpy(matrix.arrays["qweight"]), 4, 1, matrix.N)[:, column]
    z = codes(numpy(matrix.arrays["qzeros"]), 4, 1, matrix.N)[:, column]
    group = group_of_inputs(matrix)
    return scaled(q, z[group], numpy(matrix.arrays["scales"])[group])
