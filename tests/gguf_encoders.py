"""Encoders of GGUF types that gguf-py only decodes. Plain rounding: good enough to test with."""

from __future__ import annotations

import numpy as np

IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def iq4_nl(values: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns / 32 * 18]."""
    blocks = values.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    d = (largest / -127).astype(np.float16)
    scaled = blocks / np.where(d == 0, 1, d).astype(np.float32)
    codes = np.searchsorted((IQ4_NL[1:] + IQ4_NL[:-1]) / 2, scaled).astype(np.uint8)
    packed = codes[:, :16] | codes[:, 16:] << 4
    return np.concatenate([d.view(np.uint8), packed], axis=1).reshape(len(values), -1)


def q6_k(values: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns / 256 * 210]."""
    groups = values.reshape(-1, 16, 16)
    wanted = np.abs(groups).max(2) / 31
    d = (wanted.max(1, keepdims=True) / 127).astype(np.float16)
    scales = np.rint(wanted / np.where(d == 0, 1, d).astype(np.float32)).clip(1, 127).astype(np.int8)
    step = d.astype(np.float32) * scales
    codes = np.rint(groups / np.where(step == 0, 1, step)[..., None]).clip(-32, 31) + 32
    # Two halves of four runs of 32: the low bits of runs 0 and 2, and of 1 and 3, share bytes.
    runs = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | (runs[:, :, 2:] & 15) << 4
    high = sum(runs[:, :, run] >> 4 << 2 * run for run in range(4)).astype(np.uint8)
    parts = [low.reshape(len(runs), 128), high.reshape(len(runs), 64), scales.view(np.uint8), d.view(np.uint8)]
    return np.concatenate(parts, axis=1).reshape(len(values), -1)
