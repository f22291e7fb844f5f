"""Functions that dequantize a layer's arrays in one call, for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .weights import AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight


def dequantize_awq(
    qweight: Any, scales: Any, qzeros: Any, group_size: int = 128, bits: int = 4, dtype: mx.Dtype | None = None
) -> mx.array:
    """[in, out] weights of an AWQ layer; the arguments are those of `AWQWeight`."""
    return AWQWeight(qweight, scales, qzeros, group_size, bits).dequantize(dtype)


def dequantize_gptq(
    qweight: Any,
    scales: Any,
    qzeros: Any = None,
    g_idx: Any = None,
    group_size: int = 128,
    bits: int = 4,
    zero_points: str = "v1",
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """[in, out] weights of a GPTQ layer; the arguments are those of `GPTQWeight`."""
    return GPTQWeight(qweight, scales, qzeros, g_idx, group_size, bits, zero_points).dequantize(dtype)


def dequantize_compressed_tensors(
    weight_packed: Any,
    weight_scale: Any,
    weight_shape: Sequence[int] | Any,
    weight_zero_point: Any = None,
    weight_g_idx: Any = None,
    bits: int = 4,
    group_size: int = 128,
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """[out, in] weights of a compressed-tensors layer; the arguments are those of `CompressedTensorsWeight`."""
    weight = CompressedTensorsWeight(
        weight_packed, weight_scale, weight_shape, weight_zero_point, weight_g_idx, bits, group_size
    )
    return weight.dequantize(dtype)


# Named after the checkpoint format "pack-quantized".
dequantize_packed = dequantize_compressed_tensors


def dequantize_gguf(
    blocks: Any, type: str | int, shape: Sequence[int] | None = None, dtype: mx.Dtype | None = None
) -> mx.array:
    """[..., out, in] weights of a GGUF tensor; the arguments are those of `GGUFWeight`."""
    return GGUFWeight(blocks, type, shape).dequantize(dtype)
