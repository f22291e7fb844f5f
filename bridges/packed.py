"""A layer's tensors as a quantized weight, and dequantized weights and products for torch."""

from __future__ import annotations

import operator
from typing import Any

import mlx.core as mx
import torch

from ..errors import FormatError
from ..ops.linear import matmul
from ..weights import AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight, QuantizedWeight
from . import torch as crossing
from .cache import WEIGHTS

FLOATS = {torch.float16: mx.float16, torch.bfloat16: mx.bfloat16, torch.float32: mx.float32}
BITS = (2, 3, 4, 8)


def awq(
    qweight: Any, scales: Any, qzeros: Any, group_size: int, made: QuantizedWeight | None = None
) -> QuantizedWeight:
    """The weight of AWQ tensors, from the cache or across the bridge; `made` is it, if it exists already."""
    tensors = together(qweight=qweight, scales=scales, qzeros=qzeros)
    size = integer("group_size", group_size)
    return WEIGHTS.get(("awq", size), tensors, lambda: made or AWQWeight(*crossing.cross(tensors), group_size=size))


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
    named = {"qweight": qweight, "scales": scales, "qzeros": qzeros}
    if g_idx is not None and not (isinstance(g_idx, torch.Tensor) and g_idx.numel() == 0):
        named["g_idx"] = g_idx
    tensors = together(**named)
    size = integer("group_size", group_size)

    def make() -> QuantizedWeight:
        return made or GPTQWeight(*crossing.cross(tensors), group_size=size, bits=bits, zero_points=zero_points)

    return WEIGHTS.get(("gptq", size, bits, zero_points), tensors, make)


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
    named = {"weight_packed": weight_packed, "weight_scale": weight_scale}
    optional = {"weight_zero_point": weight_zero_point, "weight_g_idx": weight_g_idx}
    named |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    tensors = together(**named)
    numbers: dict[str, Any] = {"weight_shape": (out_features, in_features), "group_size": group_size, "bits": bits}

    def make() -> QuantizedWeight:
        return made or CompressedTensorsWeight(**dict(zip(named, crossing.cross(tensors), strict=True)), **numbers)

    kind = ("compressed_tensors", *list(named)[2:], out_features, in_features, group_size, bits)
    return WEIGHTS.get(kind, tensors, make)


def gguf(W: Any, quant_type: int, m: int, n: int, made: QuantizedWeight | None = None) -> QuantizedWeight:
    """As `awq`, of a GGUF tensor's bytes."""
    tensors = together(W=W)
    kind = integer("quant_type", quant_type)
    shape = (integer("m", m), integer("n", n))
    return WEIGHTS.get(("gguf", kind, shape), tensors, lambda: made or GGUFWeight(crossing.to_mlx(W), kind, shape))


def dense(weight: QuantizedWeight, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight dequantized, in its own memory on `like`'s device; in its own type by default."""
    result_dtype = weight.dtype if dtype is None else _float("dtype", dtype)
    out = crossing.to_torch(weight.dequantize(result_dtype), like.device)
    # F16 as float16 and the like are the weight's own bytes, which torch must not write into.
    return out.clone() if weight.format.stored and result_dtype == weight.dtype else out


def product(x: Any, weight: QuantizedWeight, bias: Any, like: torch.Tensor) -> torch.Tensor:
    """x [..., in] through the layer: [..., out] in x's dtype, on its device.

    Args:
        bias: [out] or None.
        like: a tensor of the layer; x must be on its device.
    """
    arrays = crossing.cross(check_product(x, bias, like))
    return crossing.to_torch(weight.linear(arrays[0], *arrays[1:]), x.device)


def input_gradient(y: Any, weight: QuantizedWeight, like: torch.Tensor) -> torch.Tensor:
    """y [..., out] through the transposed layer: [..., in] in y's dtype, on its device."""
    tensors = check_product(y, None, like)
    check_last_axis("y", y, weight.out_features)
    (array,) = crossing.cross(tensors)
    return crossing.to_torch(matmul(weight.matrix, array, transpose=weight.matrix.layout == "KN"), y.device)


def rows(ids: Any, weight: QuantizedWeight, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows `ids` of the [out, in] matrix: [*ids.shape, in] in `dtype`, on the device of ids."""
    crossed = crossing.to_mlx(together(qweight=like, ids=ids)[1])
    return crossing.to_torch(weight.take(crossed, _float("dtype", dtype)), ids.device)


def check_product(x: Any, bias: Any, like: torch.Tensor) -> list[torch.Tensor]:
    """x, and bias if there is one, checked to be floats on the layer's device."""
    named = {"x": x} if bias is None else {"x": x, "bias": bias}
    tensors = together(qweight=like, **named)[1:]
    for name, tensor in named.items():
        _float(name, tensor.dtype)
    return tensors


def check_last_axis(name: str, tensor: torch.Tensor, length: int) -> None:
    """Refuses a tensor whose last axis has another length."""
    if tensor.ndim == 0 or tensor.shape[-1] != length:
        raise FormatError(f"{name}: found shape {tuple(tensor.shape)}, expected a last axis of {length}")


def _float(name: str, dtype: torch.dtype) -> mx.Dtype:
    if dtype not in FLOATS:
        raise FormatError(f"{name}: found {dtype}, expected float16, bfloat16 or float32")
    return FLOATS[dtype]


def integer(name: str, value: Any) -> int:
    """An integer of any type, enumerations included."""
    try:
        return operator.index(value)
    except TypeError:
        raise FormatError(f"{name}: found {value!r}, expected an integer") from None


def together(**tensors: Any) -> list[torch.Tensor]:
    """The arguments, checked to be tensors on one device."""
    first: torch.Tensor | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{name}: found {type(tensor).__name__}, expected a torch.Tensor")
        if first is not None and tensor.device != first.device:
            raise FormatError(f"{name}: found device {tensor.device}, expected {first.device} as {next(iter(tensors))}")
        first = first if first is not None else tensor
    return list(tensors.values())
