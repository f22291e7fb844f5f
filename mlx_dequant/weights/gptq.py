"""GPTQ weights, as AutoGPTQ and GPTQModel store them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import dtypes
from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..fast_divmod import grouping
from ..registry import FAMILIES, formats
from ..zero_points import ZERO_POINTS, named, zero_params
from . import check
from .base import QuantizedWeight
from .bitfields import pack_stream


class GPTQWeight(QuantizedWeight):
    """W[i, o] = (q - z) * s, with input i in group g_idx[i]; shape [in, out].

    Args:
        qweight: int32 [in*bits/32, out], codes packed along the inputs.
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out*bits/32], zero points packed along the outputs; None or empty for symmetric
            codes, whose zero point is 2**(bits - 1).
        g_idx: int32 [in], the group of each input; None or empty means i // group_size. Also what vLLM's loaders
            leave in its place, argsort(g_idx): a permutation of the inputs.
        group_size: inputs in a group, the last one may be shorter; -1 for a single group.
        bits: 2, 3, 4 or 8.
        zero_points: how they are stored. "v1": minus one, with whole words wrapping modulo 2**32 (AutoGPTQ,
            GPTQModel; with 3 bits each field modulo 8). "v1-field": minus one in each field, without
            wrapping (vLLM's fallback). "v2": unchanged.

    Raises:
        FormatError: a tensor's type or shape does not fit the others, or g_idx is out of range.
    """

    family = "gptq"

    def __init__(
        self,
        qweight: Any,
        scales: Any,
        qzeros: Any = None,
        g_idx: Any = None,
        group_size: int = 128,
        bits: int = 4,
        zero_points: str = "v1",
    ):
        bits = check.integer("bits", bits)
        check.one_of("bits", bits, FAMILIES[self.family].bits)
        check.one_of("zero_points", zero_points, ZERO_POINTS)
        qweight = check.words("qweight", qweight)
        scales = check.floats("scales", scales)
        words, outputs = qweight.shape
        if words * 32 % bits:
            raise FormatError(f"qweight: found {words} rows, expected a multiple of {bits} (32 codes of {bits} bits)")
        inputs = words * 32 // bits
        if outputs * bits % 32:
            raise FormatError(f"qweight: found {outputs} outputs, expected a multiple of {32 // _common(bits)}")
        size = check.group_size(group_size, inputs)
        groups = -(-inputs // size)
        index = None if g_idx is None else check.array("g_idx", g_idx)
        if index is not None and index.size:
            # With act-order, the scales say how many groups there are.
            groups = scales.shape[0]
        why = f"(in {inputs}, out {outputs}, group_size {group_size}, {bits} bits)"
        check.shape("scales", scales, (groups, outputs), why)
        zeros = None if qzeros is None else check.array("qzeros", qzeros)
        if zeros is None or not zeros.size:
            zeros, zero_points = _middle(bits, groups, outputs), "v2"
        qzeros = check.words("qzeros", zeros)
        check.shape("qzeros", qzeros, (groups, outputs * bits // 32), why)
        check.extent("qweight: inputs", inputs)
        group_index = None
        if index is not None and index.size:
            group_index = check.groups_of("g_idx", index, inputs, groups, size)
        matrix = EncodedMatrix(
            arrays={"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": group_index},
            format=formats()[f"gptq{bits}"],
            rows=inputs,
            columns=outputs,
            scale_dtype=dtypes.name(scales.dtype),
            loader_params={
                **grouping(size, groups),
                **zero_params(zero_points, bits),
            },
            has_g_idx=group_index is not None,
        )
        self._set(matrix, (inputs, outputs), scales.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"zero_points": named(self.matrix.loader_params)}


def _middle(bits: int, groups: int, outputs: int) -> mx.array:
    """Zero points of 2**(bits - 1), packed."""
    row = pack_stream(np.full(outputs, 1 << bits - 1), bits)
    return mx.array(np.tile(row, (groups, 1)))


def _common(bits: int) -> int:
    """The greatest common divisor of 32 and `bits`: outputs are a multiple of 32 over that."""
    return bits if 32 % bits == 0 else 1
