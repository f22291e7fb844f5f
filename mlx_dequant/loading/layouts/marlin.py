"""Marlin: IST-DASLab's kernel, as AutoGPTQ and AutoAWQ pack for it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...errors import FormatError
from ...weights import GPTQWeight, QuantizedWeight
from ...weights.bitfields import pack_rows, unpack_stream
from ..parts import Parts
from ..settings import Settings
from .awq import ORDER


def marlin(parts: Parts, settings: Settings) -> QuantizedWeight:
    """Marlin's 4-bit layout: tiles of 16x16 in the order of tensor cores; symmetric codes, permuted scales."""
    codes_name, scales_name = ("B", "s") if "B" in parts else ("qweight", "scales")
    words, scales = parts.numpy(codes_name), parts.array(scales_name)
    inputs, outputs = words.shape[0] * 16, words.shape[1] // 2
    if words.shape[1] % 128 or settings.bits != 4:
        raise FormatError(f"{codes_name}: found {outputs} outputs of {settings.bits} bits, expected 64*n of 4 bits")
    if not len(scales) or scales.shape[1] != outputs or inputs % len(scales):
        raise FormatError(f"{scales_name}: found shape {scales.shape}, expected (groups, {outputs})")
    lane, word = np.arange(32)[:, None], np.arange(8)[None]
    row = 2 * (lane % 4) + np.array([0, 1, 8, 9])[word % 4]
    order = (16 * row + lane // 4 + 8 * (word // 4))[:, None] + 256 * np.arange(4)[None, :, None]
    order = order.reshape(-1, 8)[:, ORDER].reshape(-1)
    codes = unpack_stream(words, 4, words.shape[1] * 8).reshape(-1, 1024)[:, np.argsort(order)]
    codes = codes.reshape(inputs // 16, outputs // 16, 16, 16).swapaxes(1, 2).reshape(inputs, outputs)
    if len(scales) > 1:
        places = np.arange(64).reshape(8, 8).T.reshape(-1)
    else:
        places = (2 * np.arange(4)[:, None] + np.array([0, 1, 8, 9, 16, 17, 24, 25])).reshape(-1)
    back = mx.array(np.argsort(places))
    scales = scales.reshape(scales.size // len(places), len(places))[:, back].reshape(scales.shape)
    return GPTQWeight(mx.array(pack_rows(codes, 4)), scales, None, None, max(inputs // len(scales), 1), 4)


def awq_marlin(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "marlin": Marlin's layout, without zero points."""
    if "qzeros" in parts:
        raise FormatError("qzeros: found zero points in Marlin's layout, expected none")
    return marlin(parts, settings)
