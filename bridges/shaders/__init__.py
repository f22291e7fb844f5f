"""Layers on MPS by the Metal shaders alone: torch compiles them, its tensors are their buffers, its queue runs them.

No bridge, no wait and no copy of the weights; MLX is not imported. The kernels are those that MLX launches on Metal,
by the same plans. `targets.of` chooses this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...encoded import EncodedMatrix
from ...errors import FormatError
from .. import arguments
from ..arguments import check_bias, check_last_axis, check_product, float_name, integer, together
from ..cache import WEIGHTS
from . import matrices, products

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Weight:
    """A layer's matrix, cached while the layer's tensors live."""

    matrix: EncodedMatrix

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, which are the layer's own."""
        return sum(array.nbytes for array in self.matrix.arrays.values() if array is not None)


def awq(qweight: Any, scales: Any, qzeros: Any, group_size: int) -> Weight:
    """The weight of AWQ tensors, as `AWQWeight` has it."""
    named = together(qweight=qweight, scales=scales, qzeros=qzeros)
    size = integer("group_size", group_size)
    return _cached(("awq", size), named, lambda codes: matrices.awq(codes, scales, qzeros, size))


def gptq(
    qweight: Any, scales: Any, qzeros: Any, g_idx: Any, group_size: int, zero_points: str, bits: int = 4
) -> Weight:
    """The weight of GPTQ tensors, as `GPTQWeight` has it; g_idx may be None or empty."""
    named = arguments.gptq(qweight, scales, qzeros, g_idx)
    numbers = (integer("group_size", group_size), zero_points, bits)
    made = (scales, qzeros, named.get("g_idx"), *numbers)
    return _cached(("gptq", *numbers), together(**named), lambda codes: matrices.gptq(codes, *made))


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
    tensors = (weight_packed, weight_scale, weight_zero_point, weight_g_idx)
    named = arguments.compressed_tensors(*tensors)
    numbers = (out_features, in_features, integer("group_size", group_size), bits)
    key = ("compressed_tensors", *list(named)[2:], *numbers)
    return _cached(key, together(**named), lambda codes: matrices.compressed_tensors(codes, *tensors[1:], *numbers))


def gguf(W: Any, quant_type: int, m: int, n: int) -> Weight:
    """The weight of a GGUF tensor's bytes: m rows of n weights."""
    numbers = (integer("quant_type", quant_type), integer("m", m), integer("n", n))
    return _cached(("gguf", *numbers), together(W=W), lambda codes: matrices.gguf(codes, *numbers))


def _cached(
    key: tuple[Any, ...], named: dict[str, torch.Tensor], make: Callable[[torch.Tensor], EncodedMatrix]
) -> Weight:
    codes = next(iter(named.values()))
    return WEIGHTS.get(("shaders", *key), named, lambda: Weight(make(WEIGHTS.codes(codes))))


def dense(weight: Weight, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The stored matrix dequantized, in its own memory."""
    float_name("dtype", dtype)
    matrix = weight.matrix
    if matrix.size == 0:
        return like.new_zeros((matrix.rows, matrix.columns), dtype=dtype)
    return products.dequantize(matrix, dtype)


def product(x: Any, weight: Weight, bias: Any, like: torch.Tensor) -> torch.Tensor:
    """x [..., in] through the layer: [..., out] in x's dtype; bias [out] or None, added in x's type."""
    check_product(x, bias, like)
    matrix = weight.matrix
    check_last_axis("x", x, matrix.K)
    check_bias(bias, matrix.N)
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
