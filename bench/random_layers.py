"""Layers of random weights, made on MLX's device: a model of 8 billion weights takes seconds on a GPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlx_dequant as mxd

from ..diagnostics.sample_weights import plain_blocks

LARGEST = 0.04  # of dense weights, and of a group's scales times 8
MLX_GROUP = 64  # what mlx-lm's convert takes


def quantized(name: str, out_features: int, in_features: int, group_size: int, g_idx: bool = False) -> Any:
    """A random weight in any format of the registry; groups have float16 scales.

    Args:
        group_size: of formats other than GGUF's; it divides `in_features`.
        g_idx: act-order, with the inputs of each group at random places.
    """
    form = mxd.formats()[name]
    if form.family == "gguf":
        pool = _pool(name)
        ids = mx.random.randint(0, len(pool), (out_features, in_features // form.weights))
        return mxd.GGUFWeight(pool[ids].reshape(out_features, -1), name)
    bits, groups = form.bits, in_features // group_size
    if form.family == "awq":
        codes, zeros = words(in_features, out_features // 8), words(groups, out_features // 8)
        return mxd.AWQWeight(codes, _scales(groups, out_features), zeros, group_size)
    index = mx.array(_shuffled(in_features, group_size)) if g_idx else None
    if form.family == "gptq":
        codes, zeros = words(in_features * bits // 32, out_features), words(groups, out_features * bits // 32)
        return mxd.GPTQWeight(codes, _scales(groups, out_features), zeros, index, group_size, bits)
    codes, shape = words(out_features, in_features * bits // 32), (out_features, in_features)
    return mxd.CompressedTensorsWeight(codes, _scales(out_features, groups), shape, None, index, bits, group_size)


def mlx_arrays(*shape: int, bits: int, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Codes, scales and biases of a weight [..., out, in] in MLX's own format, by the names of its layers."""
    *outputs, in_features = shape
    scales = _scales(*outputs, in_features // MLX_GROUP).astype(dtype)
    biases = scales * -(2.0 ** (bits - 1))
    return {"weight": words(*outputs, in_features * bits // 32), "scales": scales, "biases": biases}


def mlx_layer(layer: Any, bits: int, dtype: mx.Dtype) -> nn.Module:
    """A layer of MLX's own format, with random weights of the shape that `layer` has."""
    shape = layer.weight.shape
    options: dict[str, Any] = {"group_size": MLX_GROUP, "bits": bits}
    made: Any
    if isinstance(layer, nn.Embedding):
        made = nn.QuantizedEmbedding(64, 64, **options)
        made.num_embeddings, made.dims = shape
    elif len(shape) == 2:
        made = nn.QuantizedLinear(64, 64, bias=False, **options)
    else:
        from mlx_lm.models.switch_layers import QuantizedSwitchLinear

        made = QuantizedSwitchLinear(64, 64, 1, bias=False, **options)
    made.update(mlx_arrays(*shape, bits=bits, dtype=dtype))
    mx.eval(made.parameters())
    return made


def dense(*shape: int, dtype: mx.Dtype) -> mx.array:
    """Numbers [..., out, in] between -`LARGEST` and `LARGEST`."""
    array = mx.random.uniform(-LARGEST, LARGEST, shape, dtype)
    mx.eval(array)
    return array


def words(*shape: int) -> mx.array:
    """Random words of codes."""
    # MLX draws integers through float32, which has no 32 random bits.
    return mx.random.randint(0, 1 << 16, (*shape[:-1], 2 * shape[-1]), mx.uint16).view(mx.uint32)


def _scales(*shape: int) -> mx.array:
    return mx.random.uniform(-LARGEST / 8, LARGEST / 8, shape).astype(mx.float16)


@cache
def _pool(name: str) -> mx.array:
    """Blocks of ordinary numbers, [count, bytes]."""
    return mx.array(plain_blocks(mxd.formats()[name]))


@cache
def _shuffled(in_features: int, group_size: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(in_features, dtype=np.int32) // group_size)
