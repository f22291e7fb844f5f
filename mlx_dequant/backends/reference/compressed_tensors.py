"""compressed-tensors pack-quantized: codes packed along the inputs, zero points along the outputs."""

from __future__ import annotations

import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import numpy
from .groups import codes, group_of_inputs, scaled


def weights(matrix: EncodedMatrix) -> np.ndarray:
    bits = matrix.format.bits
    group = group_of_inputs(matrix)
    q = codes(numpy(matrix.arrays["codes"]), bits, 1, matrix.K)
    z = np.full((matrix.N, matrix.loader_params["groups_per_row"]), 1 << bits - 1)
    if matrix.arrays["zeros"] is not None:
        z = codes(numpy(matrix.arrays["zeros"]), bits, 0, matrix.N)
    return scaled(q, z[:, group], numpy(matrix.arrays["scales"])[:, group])
