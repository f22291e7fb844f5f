"""compressed-tensors weights in the "pack-quantized" format (llm-compressor)."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from .. import dtypes, group_shapes
from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..registry import FAMILIES, formats
from . import check
from .base import QuantizedWeight


class CompressedTensorsWeight(QuantizedWeight):
    """W[o, i] = (q - z) * s, with input i in its group; shape [out, in].

    Args:
        weight_packed: int32 [out, ceil(in*bits/32)], codes packed along the inputs, stored
            plus 2**(bits - 1).
        weight_scale: float16, bfloat16 or float32 [out, groups].
        weight_shape: (out, in), as integers or an array of two.
        weight_zero_point: int32 [ceil(out*bits/32), groups], packed along the outputs with the
            same offset; None for symmetric weights.
        weight_g_idx: int32 [in], the group of each input; None or all -1 means i // group_size.
        bits: 2, 3, 4 or 8.
        group_size: inputs in a group; -1 for a single group (per channel).

    Raises:
        FormatError: a tensor's type or shape does not fit the others, or g_idx is out of range.
    """

    family = "compressed_tensors"
    arguments = MappingProxyType(
        {
            "codes": "weight_packed",
            "scales": "weight_scale",
            "zeros": "weight_zero_point",
            "g_idx": "weight_g_idx",
        }
    )

    def __init__(
        self,
        weight_packed: Any,
        weight_scale: Any,
        weight_shape: Sequence[int] | Any,
        weight_zero_point: Any = None,
        weight_g_idx: Any = None,
        bits: int = 4,
        group_size: int = 128,
    ):
        bits = check.integer("bits", bits)
        check.one_of("bits", bits, FAMILIES[self.family].bits)
        codes = check.words("weight_packed", weight_packed)
        scales = check.floats("weight_scale", weight_scale)
        full = check.lengths("weight_shape", weight_shape)
        if len(full) != 2 or min(full) < 0:
            raise FormatError(f"weight_shape: found {full}, expected (out, in)")
        outputs, inputs = full
        check.extent("weight_shape: in", inputs)
        check.extent("weight_shape: out", outputs)
        index = None if weight_g_idx is None else check.array("weight_g_idx", weight_g_idx)
        if index is not None and group_shapes.is_unset(index, index.dtype in (mx.int32, mx.int64)):
            index = None
        zeros = None if weight_zero_point is None else check.words("weight_zero_point", weight_zero_point)
        found = group_shapes.compressed_tensors(codes, scales, zeros, full, index is not None, group_size, bits)
        if index is not None:
            index = check.groups_of("weight_g_idx", index, inputs, found.groups, found.size)
        if index is None and found.needs_g_idx:
            index = mx.arange(inputs, dtype=mx.int32) // found.size
        matrix = EncodedMatrix(
            arrays={"codes": codes, "scales": scales, "zeros": zeros, "g_idx": index},
            format=formats()[f"ct{bits}"],
            rows=outputs,
            columns=inputs,
            scale_dtype=dtypes.name(scales.dtype),
            loader_params={
                **found.params,
                "has_zeros": int(zeros is not None),
                "groups_per_row": found.groups,
            },
            has_g_idx=index is not None,
        )
        self._set(matrix, full, scales.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"weight_shape": list(self.shape)}
