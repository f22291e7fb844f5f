"""A layer's tensors as a quantized weight, and dequantized weights and products for torch."""

from __future__ import annotations

import operator
from typing import Any

import mlx.core as mx
import torch

from ..errors import FormatError
from ..weights import AWQWeight, GGUFWeight, GPTQWeight, QuantizedWeight
from . import torch as crossing
from .cache import WEIGHTS

FLOATS = {torch.float16: mx.float16, torch.bfloat16: mx.bfloat16, torch.float32: mx.float32}
BITS = (2, 3, 4, 8)


def awq(qweight: Any, scales: Any, qzeros: Any, group_size: int) -> QuantizedWeight:
    """The weight of AWQ tensors, from the cache or across the bridge."""
    tensors = _together(qweight=qweight, scales=scales, qzeros=qzeros)
    size = integer("group_size", group_size)
    return WEIGHTS.get(("awq", size), tensors, lambda: AWQWeight(*crossing.cross(tensors), group_size=size))


def gptq(
    qweight: Any, scales: Any, qzeros: Any, g_idx: Any, group_size: int, zero_points: str, bits: int = 4
) -> QuantizedWeight:
    """The weight of GPTQ tensors, from the cache or across the bridge; `g_idx` may be None or empty."""
    named = {"qweight": qweight, "scales": scales, "qzeros": qzeros}
    if isinstance(g_idx, torch.Tensor) and g_idx.numel() == 0:
        g_idx = None
    if g_idx is not None:
        named["g_idx"] = g_idx
    tensors = _together(**named)
    size = integer("group_size", group_size)

    def make() -> QuantizedWeight:
        return GPTQWeight(*crossing.cross(tensors), group_size=size, bits=bits, zero_points=zero_points)

    return WEIGHTS.get(("gptq", size, bits, zero_points), tensors, make)


def gguf(W: Any, quant_type: int, m: int, n: int) -> QuantizedWeight:
    """The weight of a GGUF tensor's bytes, from the cache or across the bridge."""
    tensors = _together(W=W)
    kind = integer("quant_type", quant_type)
    shape = (integer("m", m), integer("n", n))
    return WEIGHTS.get(("gguf", kind, shape), tensors, lambda: GGUFWeight(crossing.to_mlx(W), kind, shape))


def dense(weight: QuantizedWeight, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight dequantized, in its own memory on `like`'s device; in its own type by default."""
    if dtype is not None and dtype not in FLOATS:
        raise FormatError(f"dtype: found {dtype}, expected float16, bfloat16 or float32")
    result_dtype = weight.dtype if dtype is None else FLOATS[dtype]
    out = crossing.to_torch(weight.dequantize(result_dtype), like.device)
    # F16 as float16 and the like are the weight's own bytes, which torch must not write into.
    return out.clone() if weight.format.stored and result_dtype == weight.dtype else out


def product(x: Any, weight: QuantizedWeight, bias: Any, like: torch.Tensor) -> torch.Tensor:
    """x [..., in] through the layer: [..., out] in x's dtype, on its device, without gradients.

    Args:
        bias: [out] or None.
        like: a tensor of the layer; x must be on its device.
    """
    named = {"x": x} if bias is None else {"x": x, "bias": bias}
    inputs = _together(qweight=like, **named)[1:]
    if x.dtype not in FLOATS:
        raise FormatError(f"x: found {x.dtype}, expected float16, bfloat16 or float32")
    if bias is not None and bias.dtype not in FLOATS:
        raise FormatError(f"bias: found {bias.dtype}, expected float16, bfloat16 or float32")
    arrays = crossing.cross(inputs)
    return crossing.to_torch(weight.linear(arrays[0], *arrays[1:]), x.device)


def integer(name: str, value: Any) -> int:
    """An integer of any type, enumerations included."""
    try:
        return operator.index(value)
    except TypeError:
        raise FormatError(f"{name}: found {value!r}, expected an integer") from None


def _together(**tensors: Any) -> list[torch.Tensor]:
    """The arguments, checked to be tensors on one device."""
    first: torch.Tensor | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{name}: found {type(tensor).__name__}, expected a torch.Tensor")
        if first is not None and tensor.device != first.device:
            raise FormatError(f"{name}: found device {tensor.device}, expected {first.device} as {next(iter(tensors))}")
        first = first if first is not None else tensor
    return list(tensors.values())
