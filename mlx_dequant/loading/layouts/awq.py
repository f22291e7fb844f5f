"""AWQ: the layouts of AutoAWQ's modules/linear."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...errors import FormatError
from ...weights import AWQWeight, QuantizedWeight
from ...weights.bitfields import Codes, pack_stream, unpack_stream
from ..parts import Parts
from ..settings import Settings

# The columns that the nibbles of AWQ's words hold.
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemm" layout; "exllama", "exllamav2" and "ipex" are names of kernels for it."""
    words, scales, zeros = (parts.array(part) for part in ("qweight", "scales", "qzeros"))
    index = parts.get("g_idx")
    size = settings.group_size if settings.group_size > 0 else len(words)
    if index is not None and index.size and not np.array_equal(np.asarray(index), np.arange(len(words)) // size):
        raise FormatError("g_idx: found act-order, expected groups in their order: AWQ has no other")
    return AWQWeight(words, scales, zeros, settings.group_size, settings.bits)


def awq_gemv(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemv" layout: codes in plain order along the inputs, groups of an output in a row, padded."""
    words, scales, zeros = parts.numpy("qweight"), parts.array("scales"), parts.numpy("qzeros")
    outputs, inputs = words.shape[0], words.shape[1] * 8
    groups = _groups(inputs, settings, "scales", scales.shape[1])
    if scales.shape[0] != outputs or zeros.shape[0] != outputs or zeros.shape[1] * 8 < groups:
        raise FormatError(
            f"scales, qzeros: found {scales.shape}, {zeros.shape}, expected {outputs} rows of {groups} groups"
        )
    return _awq(
        unpack_stream(words, 4, inputs).T, scales[:, :groups].T, unpack_stream(zeros, 4, groups).T, settings.group_size
    )


def awq_gemv_fast(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemv_fast" layout, which is llm-awq's: four outputs interleaved in int16 words, 64 inputs at a time.

    Zero points are stored as -scale*zero in float16. They are taken back only where that is exact.
    """
    words, scales = parts.numpy("qweight"), parts.array("scales")
    outputs, inputs = words.shape[0] * 4, words.shape[1]
    if inputs % 64:
        raise FormatError(f"qweight: found {inputs} inputs, expected a multiple of 64")
    groups = _groups(inputs, settings, "scales", scales.shape[0])
    fields = words.view(np.uint16)[..., None] >> np.array([0, 4, 8, 12], np.uint16) & np.uint16(15)
    # From [out/4, in/64, 64 places of four outputs each] to [out, in/32, 32 places].
    places = fields.astype(np.uint8).reshape(outputs // 4, inputs // 64, 4, 64).swapaxes(1, 2)
    pairs = places.reshape(outputs, inputs // 32, 4, 2, 4).swapaxes(3, 4).reshape(outputs, inputs // 32, 4, 4, 2)
    codes = pairs.swapaxes(2, 3).reshape(outputs, inputs)
    name = "qzeros" if "qzeros" in parts else "scaled_zeros"
    if name not in parts:
        raise FormatError("qzeros: found none, expected zero points: qzeros or scaled_zeros")
    shifts = np.asarray(parts.array(name).astype(mx.float32))[:groups]
    scales = scales[:groups]
    factor = np.asarray(scales.astype(mx.float32))
    if shifts.shape != (groups, outputs) or factor.shape != shifts.shape:
        raise FormatError(f"scales, {name}: found {factor.shape}, {shifts.shape}, expected ({groups}, {outputs})")
    with np.errstate(all="ignore"):  # infinities and NaN are told below
        zeros = np.rint(np.divide(-shifts, factor, out=np.zeros_like(factor), where=factor != 0))
        rounded = mx.array(-(factor * zeros)).astype(scales.dtype).astype(mx.float32)
    if zeros.min(initial=0) < 0 or zeros.max(initial=0) > 15 or not np.array_equal(np.asarray(rounded), shifts):
        raise FormatError(f"{name}: found values that are not -scale times a zero point of 0 to 15")
    return _awq(codes.T, scales, zeros.astype(np.uint8), settings.group_size)


def _groups(inputs: int, settings: Settings, name: str, found: int) -> int:
    groups = -(-inputs // settings.group_size) if settings.group_size > 0 else 1
    if found < groups or settings.bits != 4:
        raise FormatError(f"{name}: found {found} groups, {settings.bits} bits, expected at least {groups}, 4 bits")
    return groups


def _awq(codes: Codes, scales: mx.array, zeros: Codes, group_size: int) -> QuantizedWeight:
    """From codes [in, out] and zero points [groups, out]."""
    if codes.shape[1] % 8:
        raise FormatError(f"qweight: found {codes.shape[1]} outputs, expected a multiple of 8")
    order = np.arange(codes.shape[1]).reshape(-1, 8)[:, ORDER].reshape(-1)
    words, points = (mx.array(pack_stream(np.ascontiguousarray(each)[:, order], 4)) for each in (codes, zeros))
    return AWQWeight(words, scales, points, group_size)
