"""Layers on MPS by the Metal shaders alone: torch compiles them, its tensors are their buffers, its queue runs them.

No bridge, no wait and no copy of the weights; MLX is not imported. The kernels are those that MLX launches on Metal,
by the same plans. `targets.of` chooses this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...encoded import EncodedMatrix
from ...errors import FormatError
from ..arguments import check_last_axis, check_product, float_name, integer, together
from ..cache import WEIGHTS
from . import matrices, products
from .launch import DTYPES

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Weight:
    """A layer's matrix, cached while the layer's tensors live."""

    matrix: EncodedMatrix

    @property
    def dtype(self) -> torch.dtype:
        """The default type of dequantized weights: that of the scales, float16 for GGUF."""
        form = self.matrix.format
        return DTYPES[(form.stored or "float16") if form.family == "gguf" else self.matrix.scale_dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, which are the layer's own."""
        return sum(array.nbytes for array in self.matrix.arrays.values() if array is not None)


def awq(qweight: Any, scales: Any, qzeros: Any, group_size: int) -> Weight:
    """The weight of AWQ tensors, as `AWQWeight` has it."""
    tensors = together(qweight=qweight, scales=scales, qzeros=qzeros)
    return _cached(("awq", integer("group_size", group_size)), tensors, tensors)


def gptq(
    qweight: Any, scales: Any, qzeros: Any, g_idx: Any, group_size: int, zero_points: str, bits: int = 4
) -> Weight:
    """The weight of GPTQ tensors, as `GPTQWeight` has it; g_idx may be None or empty."""
    given = g_idx is not None and not (isinstance(g_idx, torch.Tensor) and g_idx.numel() == 0)
    tensors = together(qweight=qweight, scales=scales, qzeros=qzeros, **({"g_idx": g_idx} if given else {}))
    key = ("gptq", integer("group_size", group_size), zero_points, bits)
    return _cached(key, tensors, [*tensors, None][:4])


def compressed_tensors(
    weight_packed: Any,
    weight_scale: Any,
    weight_zero_point: Any,
    weight_g_idx: Any,
    out_features: int,
    in_features: int,
    group_size: int,
    bits: int = 4,
) -> Weight:
    """The weight of compressed-tensors' tensors, as `CompressedTensorsWeight` has it; two may be None."""
    named = {"weight_packed": weight_packed, "weight_scale": weight_scale}
    optional = {"weight_zero_point": weight_zero_point, "weight_g_idx": weight_g_idx}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}
    tensors = together(**named, **given)
    key = ("compressed_tensors", *given, out_features, in_features, integer("group_size", group_size), bits)
    numbers = key[1 + len(given) :]
    return _cached(key, tensors, [weight_packed, weight_scale, weight_zero_point, weight_g_idx], numbers)


def gguf(W: Any, quant_type: int, m: int, n: int) -> Weight:
    """The weight of a GGUF tensor's bytes: m rows of n weights."""
    numbers = (integer("quant_type", quant_type), integer("m", m), integer("n", n))
    tensors = together(W=W)
    return _cached(("gguf", *numbers), tensors, tensors)


def _cached(key: tuple[Any, ...], tensors: list[torch.Tensor], operands: list[Any], numbers: Any = None) -> Weight:
    """The weight that `matrices` makes, by the function that the key begins with."""
    family, *rest = key
    make = getattr(matrices, family)
    return WEIGHTS.get(
        ("shaders", *key), tensors, lambda: Weight(make(*operands, *(rest if numbers is None else numbers)))
    )


def dense(weight: Weight, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The stored matrix dequantized, in its own memory; in its own type by default."""
    result = weight.dtype if dtype is None else dtype
    float_name("dtype", result)
    matrix = weight.matrix
    if matrix.size == 0:
        return like.new_zeros((matrix.rows, matrix.columns), dtype=result)
    return products.dequantize(matrix, result)


def product(x: Any, weight: Weight, bias: Any, like: torch.Tensor) -> torch.Tensor:
    """x [..., in] through the layer: [..., out] in x's dtype; bias [out] or None, added in x's type."""
    check_product(x, bias, like)
    matrix = weight.matrix
    check_last_axis("x", x, matrix.K)
    if bias is not None and tuple(bias.shape) != (matrix.N,):
        raise FormatError(f"bias: found shape {tuple(bias.shape)}, expected ({matrix.N},)")
    y = _times(x, matrix, matrix.layout == "NK")
    return y if bias is None else y + bias.to(x.dtype)


def input_gradient(y: Any, weight: Weight, like: torch.Tensor) -> torch.Tensor:
    """y [..., out] through the transposed layer: [..., in] in y's dtype."""
    check_product(y, None, like)
    check_last_axis("y", y, weight.matrix.N)
    return _times(y, weight.matrix, weight.matrix.layout == "KN")


def rows(ids: Any, weight: Weight, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows `ids` of the [out, in] matrix: [*ids.shape, in] in `dtype`; NaN for an id out of range."""
    together(qweight=like, ids=ids)
    float_name("dtype", dtype)
    if ids.dtype not in INTEGERS:
        raise FormatError(f"ids: found {ids.dtype}, expected integers")
    matrix = weight.matrix
    shape = (*ids.shape, matrix.K)
    if matrix.size == 0 or ids.numel() == 0:
        return like.new_zeros(shape, dtype=dtype)
    flat = ids.reshape(-1).contiguous()
    return products.gather(matrix, flat, dtype, int(matrix.layout == "KN")).reshape(shape)


def _times(x: torch.Tensor, matrix: EncodedMatrix, transpose: bool) -> torch.Tensor:
    outputs = matrix.rows if transpose else matrix.columns
    shape = (*x.shape[:-1], outputs)
    if matrix.size == 0 or x.numel() == 0:
        return x.new_zeros(shape)
    flat = x.detach().resolve_neg().reshape(-1, x.shape[-1]).contiguous()
    return products.matmul(matrix, flat, transpose).reshape(shape)
