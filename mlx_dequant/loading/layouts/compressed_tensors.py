"""compressed-tensors' integers, as its compressors lay them out."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...errors import FormatError
from ...weights import CompressedTensorsWeight, QuantizedWeight, check
from ...weights.bitfields import WIDER, pack_rows, pack_stream, unpack_stream, unpack_words
from ..parts import Parts
from ..settings import Settings
from .scales import by_output


def pack_quantized(parts: Parts, settings: Settings) -> QuantizedWeight:
    """compressed-tensors' pack-quantized, 1 to 8 bits, as a dense stream or with 32 // bits codes a word."""
    bits, wide = settings.bits, WIDER.get(settings.bits)
    if wide is None:
        raise FormatError(f"bits: found {bits}, expected 1 to 8")
    packed, scales, shape = parts.array("weight_packed"), parts.array("weight_scale"), parts.array("weight_shape")
    if shape.size != 2:
        raise FormatError(f"weight_shape: found {shape.size} numbers, expected (out, in)")
    outputs, inputs = check.lengths("weight_shape", shape)
    if scales.ndim == 1:
        scales = scales[:, None]
    _check_all_there(parts, settings)
    zeros = parts.get("weight_zero_point")
    unpacked = zeros is not None and zeros.dtype == mx.int8
    old = 32 % bits != 0 and _straddles(packed, bits, inputs) is False
    if old or wide != bits or unpacked:
        offset = (1 << wide - 1) - (1 << bits - 1)
        unpack = unpack_words if old else unpack_stream
        if old or wide != bits:
            _fits("weight_packed", packed, old, bits, (outputs, inputs))
            packed = mx.array(pack_stream(unpack(np.asarray(packed), bits, inputs) + np.uint8(offset), wide))
        if zeros is not None and unpacked:
            check.shape("weight_zero_point", zeros, tuple(scales.shape))
            stored = np.asarray(zeros).astype(np.int16) + (1 << wide - 1)
            zeros = mx.array(pack_rows(stored, wide))
        elif zeros is not None:
            _fits("weight_zero_point", zeros.T, old, bits, (zeros.shape[-1], outputs))
            stored = unpack(np.ascontiguousarray(np.asarray(zeros).T), bits, outputs) + np.uint8(offset)
            zeros = mx.array(np.ascontiguousarray(pack_stream(stored, wide).T))
    return CompressedTensorsWeight(
        packed, scales, (outputs, inputs), zeros, parts.get("weight_g_idx"), wide, settings.group_size
    )


def _check_all_there(parts: Parts, settings: Settings) -> None:
    """Refuses modules without tensors that their settings ask for."""
    grouped = parts.array("weight_scale").size > 1 and settings.group_size > 0
    if settings.act_order and grouped and "weight_g_idx" not in parts:
        raise FormatError("weight_g_idx: found none, expected the group of each input: the config has actorder")
    if not settings.symmetric and "weight_zero_point" not in parts:
        raise FormatError("weight_zero_point: found none, expected it: the config says that codes are not symmetric")


def _fits(name: str, words: mx.array, old: bool, bits: int, shape: tuple[int, int]) -> None:
    rows, count = shape
    width = -(-count // (32 // bits)) if old else -(-count * bits // 32)
    if tuple(words.shape) != (rows, width):
        raise FormatError(
            f"{name}: found {words.shape[-1]} words a row, expected {width} for {count} codes of {bits} bits"
        )


def _straddles(packed: mx.array, bits: int, inputs: int) -> bool:
    """Whether codes form a dense stream (compressed-tensors 0.18 on), by the words of a row. Where both layouts have as
    many, the older one leaves the highest bits of each word zero."""
    stream, words = -(-inputs * bits // 32), -(-inputs // (32 // bits))
    if stream != words or not packed.size:
        return packed.shape[1] != words
    return bool(np.any(np.asarray(packed).view(np.uint32) >> np.uint32(32 // bits * bits)))


def int_quantized(parts: Parts, settings: Settings) -> QuantizedWeight:
    """compressed-tensors' int-quantized: int8 codes, not packed, with scales by tensor, output, group or block."""
    _check_all_there(parts, settings)
    codes, scales = np.asarray(parts.array("weight")), parts.array("weight_scale")
    outputs, inputs = codes.shape
    index = parts.get("weight_g_idx")
    scales, size = by_output(scales, outputs, inputs, settings)
    zeros = parts.get("weight_zero_point")
    packed = None
    if zeros is not None:
        rows = np.asarray(by_output(zeros, outputs, inputs, settings)[0]).astype(np.int16)
        packed = mx.array(pack_rows(rows + 128, 8))
    words = mx.array(pack_stream(codes.view(np.uint8) ^ np.uint8(128), 8))
    return CompressedTensorsWeight(words, scales, (outputs, inputs), packed, index, 8, size)
