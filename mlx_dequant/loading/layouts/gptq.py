"""GPTQ as AutoGPTQ and GPTQModel lay it out: AutoGPTQ, and GPTQModel's planar_packing.py."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...weights import GPTQWeight, QuantizedWeight
from ...weights.bitfields import WIDER, Codes, pack_rows, pack_stream, unpack_words
from ..parts import Parts
from ..settings import Settings

# Planes of a planar code: their bits, lowest first.
_PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def gptq(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoGPTQ's layout. Symmetric layers may lack zero points."""
    zeros = parts.get("qzeros")
    if (zeros is None or not zeros.size) and not settings.symmetric:
        raise FormatError("qzeros: found none, expected them: the config says that the codes are not symmetric")
    _check_order(parts, settings)
    return GPTQWeight(
        parts.array("qweight"),
        parts.array("scales"),
        zeros,
        parts.get("g_idx"),
        settings.group_size,
        settings.bits,
        settings.zero_points or "v1",
    )


def gptq_planar(parts: Parts, settings: Settings) -> QuantizedWeight:
    """GPTQModel's gptq_p: 32 codes lie in planes of 4, 2 and 1 bits. Zero points are stored as they are."""
    bits = settings.bits
    if bits not in _PLANES:
        return gptq(parts, settings)
    _check_order(parts, settings)
    codes = _planes(parts.numpy("qweight").T, bits, "qweight").T
    zeros = _planes(parts.numpy("qzeros"), bits, "qzeros")
    wide = WIDER[bits]
    words, stored = mx.array(pack_rows(codes, wide)), mx.array(pack_stream(zeros, wide))
    return GPTQWeight(words, parts.array("scales"), stored, parts.get("g_idx"), settings.group_size, wide, "v2")


def _check_order(parts: Parts, settings: Settings) -> None:
    index = parts.get("g_idx")
    if settings.act_order and parts.shape("scales")[:1] > (1,) and (index is None or not index.size):
        raise FormatError("g_idx: found none, expected the group of each input: the config has desc_act")


def _planes(words: NDArray[np.int32], bits: int, name: str) -> Codes:
    """Codes [n, 32*blocks] of words [n, bits*blocks]."""
    if words.shape[-1] % bits:
        raise FormatError(f"{name}: found {words.shape[-1]} words of 32 codes, expected a multiple of {bits}")
    words = np.ascontiguousarray(words).reshape(len(words), words.shape[-1] // bits, bits)
    result, first, shift = np.zeros((*words.shape[:2], 32), np.uint8), 0, 0
    for width in _PLANES[bits]:
        result |= unpack_words(words[..., first : first + width], width, 32) << np.uint8(shift)
        first, shift = first + width, shift + width
    return result.reshape(len(words), words.shape[1] * 32)
