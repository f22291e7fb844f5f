"""GGUF: gguf-py's own dequantization. It lacks Q1_0 and Q2_0, which follow ggml's C code here."""

from __future__ import annotations

import gguf
import numpy as np

from ...encoded import EncodedMatrix
from ..arrays import numpy


def weights(matrix: EncodedMatrix) -> np.ndarray:
    form = matrix.format
    blocks = numpy(matrix.arrays["blocks"])
    with np.errstate(all="ignore"):
        if form.name in _OURS:
            return _OURS[form.name](blocks.reshape(-1, form.bytes))
        kind = gguf.GGMLQuantizationType(form.ggml_type)
        return gguf.quants.dequantize(blocks, kind).astype(np.float32, copy=False)


def _scale(blocks: np.ndarray) -> np.ndarray:
    return blocks[:, :2].copy().view(np.float16).astype(np.float32)


def _q1_0(blocks: np.ndarray) -> np.ndarray:
    d = _scale(blocks)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little"), d, -d)


def _q2_0(blocks: np.ndarray) -> np.ndarray:
    fields = blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return _scale(blocks) * (fields.reshape(len(blocks), 64).astype(np.float32) - 1)


_OURS = {"q1_0": _q1_0, "q2_0": _q2_0}
