"""Rotary positions with a factor for each wavelength, as some GGUF files have them, and their settings in a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import FormatError

CONTEXTS = tuple(2**power for power in range(5, 21))
LOW, HIGH = 1.0, 4.0  # what every model so far has


def llama3_scaling(factors: Sequence[float], base: float) -> dict[str, Any]:
    """The `rope_scaling` that mlx-lm computes these factors from. A file has the factors only.

    Raises:
        FormatError: no settings of the type llama3 give them.
    """
    found = np.array(factors)
    factor = float(found.max())
    for context in CONTEXTS:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": context,
        }
        if np.allclose(_factors(len(found), base, factor, context), found, rtol=1e-5):
            return scaling
    raise FormatError("rope_freqs.weight: found factors that are not llama3's, expected such: mlx-lm has no other")


def _factors(count: int, base: float, factor: float, context: int) -> np.ndarray[Any, Any]:
    cycles = context / (2 * math.pi * base ** (np.arange(count) / count))
    smooth = (cycles - LOW) / (HIGH - LOW)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(cycles < LOW, factor, np.where(cycles > HIGH, 1, between))
