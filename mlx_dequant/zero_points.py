"""How GPTQ checkpoints store zero points, as the loader's launch parameters say it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# "v1": minus one, whole words wrapping (with 3 bits each field). "v1-field": minus one in each field. "v2": unchanged.
ZERO_POINTS = ("v1", "v1-field", "v2")
# What "v1" adds to stored words, by bits.
_WHOLE_WORD = {2: 0x55555555, 3: 1, 4: 0x11111111, 8: 0x01010101}


def zero_params(zero_points: str, bits: int) -> dict[str, int]:
    """The launch parameters of one of `ZERO_POINTS`."""
    return {
        "zero_word": _WHOLE_WORD[bits] if zero_points == "v1" else 0,
        "zero_field": int(zero_points == "v1-field"),
    }


def middle_words(bits: int, groups: int, outputs: int) -> NDArray[np.int32]:
    """Zero points of 2**(bits - 1) as packed words [groups, outputs*bits/32], for "v2"."""
    fields = np.arange(bits) == bits - 1
    row = np.packbits(np.tile(fields, outputs), bitorder="little").view(np.int32)
    return np.tile(row, (groups, 1))


def named(params: Mapping[str, int]) -> str:
    """Which of `ZERO_POINTS` launch parameters say."""
    return "v1" if params["zero_word"] else "v1-field" if params["zero_field"] else "v2"
