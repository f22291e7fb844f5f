"""GPTQ: codes packed along the inputs, zero points along the outputs."""

from __future__ import annotations

import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import numpy
from .groups import codes, group_of_inputs, scaled


def weights(matrix: EncodedMatrix) -> np.ndarray:
    bits = matrix.format.bits
    zero_word, zero_field = (matrix.loader_params[name] for name in ("zero_word", "zero_field"))
    words = numpy(matrix.arrays["qzeros"]).view(np.uint32)
    if zero_word and bits != 3:
        words = words + np.uint32(zero_word)
    z = codes(words, bits, 1, matrix.N)
    if zero_word and bits == 3:
        z = (z + 1) % 8
    z = z + zero_field
    group = group_of_inputs(matrix)
    q = codes(numpy(matrix.arrays["qweight"]), bits, 0, matrix.K)
    return scaled(q, z[group], numpy(matrix.arrays["scales"])[group])
