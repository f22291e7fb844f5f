"""GPTQ weights, as AutoGPTQ and GPTQModel store them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import dtypes, group_shapes
from ..encoded import EncodedMatrix
from ..registry import FAMILIES, formats
from ..zero_points import ZERO_POINTS, middle_words, named, zero_params
from . import check
from .base import QuantizedWeight


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
        index = None if g_idx is None else check.array("g_idx", g_idx)
        index = index if index is not None and index.size else None
        zeros = None if qzeros is None else check.array("qzeros", qzeros)
        found = group_shapes.gptq(qweight, scales, zeros, index is not None, group_size, bits)
        if zeros is None or not zeros.size:
            zeros, zero_points = mx.array(middle_words(bits, found.groups, found.outputs)), "v2"
        qzeros = check.words("qzeros", zeros)
        if index is not None:
            index = check.groups_of("g_idx", index, found.inputs, found.groups, found.size)
        matrix = EncodedMatrix(
            arrays={"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": index},
            format=formats()[f"gptq{bits}"],
            rows=found.inputs,
            columns=found.outputs,
            scale_dtype=dtypes.name(scales.dtype),
            loader_params={**found.params, **zero_params(zero_points, bits)},
            has_g_idx=index is not None,
        )
        self._set(matrix, (found.inputs, found.outputs), scales.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"zero_points": named(self.matrix.loader_params)}
