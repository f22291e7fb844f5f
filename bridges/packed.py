"""A layer's tensors as a quantized weight of MLX, and dequantized weights and products for torch, across the bridge."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import mlx.core as mx
import torch

from .. import dtypes
from ..backends.host.lazy import at_once
from ..backends.host.threads import limited_to
from ..ops.linear import matmul
from ..weights import AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight, QuantizedWeight
from . import arguments, dense_products
from . import torch as crossing
from .arguments import check_bias, check_last_axis, check_product, float_name, integer, together
from .cache import WEIGHTS

P = ParamSpec("P")


def _for_torch(work: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """On a CPU: on as many threads as torch has, and at once, because torch reads the result right away."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        with at_once(), limited_to(torch.get_num_threads()):
            return work(*args, **kwargs)

    return run


def _crossed(named: dict[str, torch.Tensor]) -> list[mx.array]:
    """A layer's tensors across the bridge. Codes that were released are there."""
    first, *others = named
    codes = WEIGHTS.codes(named[first])
    if codes is named[first]:
        return crossing.cross(named)
    return [codes, *(crossing.cross({name: named[name] for name in others}) if others else [])]


def awq(
    qweight: Any, scales: Any, qzeros: Any, group_size: int, made: QuantizedWeight | None = None
) -> QuantizedWeight:
    """The weight of AWQ tensors, from the cache or across the bridge; `made` is it, if it exists already."""
    named = together(qweight=qweight, scales=scales, qzeros=qzeros)
    size = integer("group_size", group_size)
    return WEIGHTS.get(("awq", size), named, lambda: made or AWQWeight(*_crossed(named), group_size=size))


def gptq(
    qweight: Any,
    scales: Any,
    qzeros: Any,
    g_idx: Any,
    group_size: int,
    zero_points: str,
    bits: int = 4,
    made: QuantizedWeight | None = None,
) -> QuantizedWeight:
    """As `awq`; `g_idx` may be None or empty."""
    named = together(**arguments.gptq(qweight, scales, qzeros, g_idx))
    size = integer("group_size", group_size)

    def make() -> QuantizedWeight:
        return made or GPTQWeight(*_crossed(named), group_size=size, bits=bits, zero_points=zero_points)

    return WEIGHTS.get(("gptq", size, bits, zero_points), named, make)


def compressed_tensors(
    weight_packed: Any,
    weight_scale: Any,
    weight_zero_point: Any,
    weight_g_idx: Any,
    out_features: int,
    in_features: int,
    group_size: int,
    bits: int = 4,
    made: QuantizedWeight | None = None,
) -> QuantizedWeight:
    """As `awq`; the last two tensors may be None."""
    named = together(**arguments.compressed_tensors(weight_packed, weight_scale, weight_zero_point, weight_g_idx))
    numbers: dict[str, Any] = {"weight_shape": (out_features, in_features), "group_size": group_size, "bits": bits}

    def make() -> QuantizedWeight:
        return made or CompressedTensorsWeight(**dict(zip(named, _crossed(named), strict=True)), **numbers)

    kind = ("compressed_tensors", *list(named)[2:], out_features, in_features, group_size, bits)
    return WEIGHTS.get(kind, named, make)


def gguf(W: Any, quant_type: int, m: int, n: int, made: QuantizedWeight | None = None) -> QuantizedWeight:
    """As `awq`, of a GGUF tensor's bytes."""
    named = together(W=W)
    kind = integer("quant_type", quant_type)
    shape = (integer("m", m), integer("n", n))
    return WEIGHTS.get(("gguf", kind, shape), named, lambda: made or GGUFWeight(*_crossed(named), kind, shape))


@_for_torch
def dense(weight: QuantizedWeight, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight dequantized, in its own memory on `like`'s device."""
    result_dtype = dtypes.of(float_name("dtype", dtype))
    out = crossing.to_torch(weight.dequantize(result_dtype), like.device)
    # F16 as float16 and the like are the weight's own bytes, which torch must not write into.
    return out.clone() if weight.format.stored and result_dtype == weight.dtype else out


@_for_torch
def product(x: Any, weight: QuantizedWeight, bias: Any, like: torch.Tensor) -> torch.Tensor:
    """x [..., in] through the layer: [..., out] in x's dtype, on its device.

    Args:
        bias: [out] or None.
        like: a tensor of the layer; x must be on its device.
    """
    named = check_product(x, bias, like)
    check_last_axis("x", x, weight.in_features)
    check_bias(bias, weight.out_features)
    y = _by_torch(x, weight, weight.matrix.layout == "NK")
    if y is not None:
        return y if bias is None else y + bias.to(y.dtype)
    return crossing.to_torch(weight.linear(*crossing.cross(named)), x.device)


@_for_torch
def input_gradient(y: Any, weight: QuantizedWeight, like: torch.Tensor) -> torch.Tensor:
    """y [..., out] through the transposed layer: [..., in] in y's dtype, on its device."""
    named = check_product(y, None, like)
    check_last_axis("y", y, weight.out_features)
    transpose = weight.matrix.layout == "KN"
    x = _by_torch(y, weight, transpose)
    if x is not None:
        return x
    (array,) = crossing.cross(named)
    return crossing.to_torch(matmul(weight.matrix, array, transpose), y.device)


def _by_torch(x: torch.Tensor, weight: QuantizedWeight, transpose: bool) -> torch.Tensor | None:
    matrix = weight.matrix
    return dense_products.matmul(matrix, x, transpose) if matrix.size and dense_products.chosen(x) else None


@_for_torch
def rows(ids: Any, weight: QuantizedWeight, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows `ids` of the [out, in] matrix: [*ids.shape, in] in `dtype`, on the device of ids."""
    together(qweight=like, ids=ids)
    (array,) = crossing.cross({"ids": ids})
    return crossing.to_torch(weight.take(array, dtypes.of(float_name("dtype", dtype))), ids.device)
