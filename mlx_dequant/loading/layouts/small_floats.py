"""Layouts of small floats in safetensors: float8 e4m3, NVFP4, MXFP4, MXFP8.

MXFP4 becomes GGUF's MXFP4 blocks, the same bits in another order. NVFP4 has 15 values, all multiples of a half: they
become 8-bit integers with the group's scale halved, so that products with the scale round as the tool's do. Scaled
float8 has no kernel here: it is decoded when it is read, into the smallest of bfloat16, float16 and float32 that has
every value exactly as float8 times scale gives it in float32.
"""

from __future__ import annotations

from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...weights import CompressedTensorsWeight, GGUFWeight, QuantizedWeight
from ...weights.bitfields import pack_stream
from ..parts import E4M3, Parts, exponents
from ..settings import Settings
from .scales import by_output

# The values of float4 e2m1, doubled.
_FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)


def float8(parts: Parts, settings: Settings) -> QuantizedWeight:
    """float8 e4m3 with scales by tensor, output or block (weight_scale, or DeepSeek's weight_scale_inv, which is
    multiplied by just the same); MXFP8 where the scales are exponents."""
    name = "weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"
    if {"weight_scale", "weight_scale_inv"} <= parts.types.keys():
        raise FormatError("weight_scale_inv: found one beside weight_scale, expected either")
    _symmetric(parts)
    codes = np.asarray(parts.array("weight"))
    outputs, inputs = codes.shape
    scales = exponents(parts.numpy(name)) if parts.types[name] == "U8" else parts.numpy(name)
    rows, size = by_output(mx.array(scales.astype(np.float32)), outputs, inputs, settings)
    scales = np.repeat(np.asarray(rows), size, axis=1)[:, :inputs] if size > 0 else np.asarray(rows)
    with np.errstate(all="ignore"):
        return stored(E4M3[codes] * scales)


def _symmetric(parts: Parts) -> None:
    if "weight_zero_point" in parts and np.any(parts.numpy("weight_zero_point")):
        raise FormatError("weight_zero_point: found zero points, expected only zeros")


def stored(values: NDArray[np.float32]) -> QuantizedWeight:
    """float32 values in the smallest float type that has them exactly."""
    words = np.ascontiguousarray(values).view(np.uint32)
    if not np.any(words & np.uint32(0xFFFF)):
        return GGUFWeight((words >> np.uint32(16)).astype(np.uint16).view(np.uint8), "bf16")
    with np.errstate(all="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values, equal_nan=True):
        return GGUFWeight(half.view(np.uint8), "f16")
    return GGUFWeight(words.view(np.uint8), "f32")


def nvfp4(parts: Parts, settings: Settings) -> QuantizedWeight:
    """NVFP4: two codes a byte, an e4m3 scale for 16 inputs, and one for the tensor, by which compressed-tensors
    divides (weight_global_scale) and ModelOpt multiplies (weight_scale_2)."""
    name = "weight_packed" if "weight_packed" in parts else "weight"
    _symmetric(parts)
    codes = parts.numpy(name)
    scales = parts.numpy("weight_scale")
    if scales.shape != (len(codes), codes.shape[1] // 8):
        raise FormatError(f"weight_scale: found shape {scales.shape}, expected (out, in/16) for {name} {codes.shape}")
    whole = parts.numpy("weight_global_scale" if "weight_global_scale" in parts else "weight_scale_2").reshape(-1)
    if whole.size != 1:
        raise FormatError(f"global scale: found {whole.size} numbers, expected 1")
    with np.errstate(all="ignore"):
        scales = scales / whole if "weight_global_scale" in parts else scales * whole
    values = _FP4[np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)]
    words = mx.array(pack_stream(values + 128, 8))
    return CompressedTensorsWeight(
        words, mx.array(scales.astype(np.float32) / 2), values.shape, None, None, 8, group_size=16
    )


def mxfp4(parts: Parts, settings: Settings) -> QuantizedWeight:
    """MXFP4: two codes a byte and an exponent for 32 inputs.

    gpt-oss has blocks [experts, out, in/32, 16] and scales [experts, out, in/32].
    """
    name = next(part for part in ("blocks", "weight_packed", "weight") if part in parts)
    scale = "scales" if name == "blocks" else "weight_scale"
    _symmetric(parts)
    shape, scaled = parts.shape(name), parts.shape(scale)
    if prod(shape) != prod(scaled) * 16 or shape[: len(scaled) - 1] != scaled[:-1]:
        raise FormatError(f"{scale}: found shape {scaled}, expected one of 32 inputs each for {name} {shape}")
    blocks = mx.zeros((*scaled[:-1], scaled[-1] * 17), mx.uint8, stream=mx.cpu)
    own = np.asarray(blocks)  # a view
    if len(scaled) < 3:
        own[:] = _blocks(np.asarray(parts.array(name)), np.asarray(parts.array(scale)))
    else:
        for at, (codes, powers) in enumerate(zip(parts.each(name), parts.each(scale), strict=True)):
            own[at] = _blocks(codes, powers)
    return GGUFWeight(blocks, "mxfp4")


def _blocks(codes: NDArray[np.uint8], powers: NDArray[np.uint8]) -> NDArray[Any]:
    """GGUF's blocks of a matrix."""
    pairs = codes.reshape(powers.size, 16)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1, 2, 16)
    blocks = np.concatenate([powers.reshape(-1, 1), nibbles[:, 0] | nibbles[:, 1] << 4], axis=1)
    return blocks.reshape(*powers.shape[:-1], powers.shape[-1] * 17)
