"""AWQ weights, as AutoAWQ's "gemm" layout stores them."""

from __future__ import annotations

from typing import Any

from .. import dtypes, group_shapes
from ..encoded import EncodedMatrix
from ..registry import FAMILIES, formats
from . import check
from .base import QuantizedWeight


class AWQWeight(QuantizedWeight):
    """W[i, o] = (q - z) * s, with input i in group i // group_size; shape [in, out].

    Args:
        qweight: int32 [in, out/8], nibbles in the order 0 2 4 6 1 3 5 7 of the outputs.
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out/8], in the same order.
        group_size: inputs in a group; -1 for a single group.
        bits: 4.

    Raises:
        FormatError: a tensor's type or shape does not fit the others.
    """

    family = "awq"

    def __init__(self, qweight: Any, scales: Any, qzeros: Any, group_size: int = 128, bits: int = 4):
        bits = check.integer("bits", bits)
        check.one_of("bits", bits, FAMILIES[self.family].bits)
        qweight = check.words("qweight", qweight)
        scales = check.floats("scales", scales)
        qzeros = check.words("qzeros", qzeros)
        found = group_shapes.awq(qweight, scales, qzeros, group_size)
        matrix = EncodedMatrix(
            arrays={"qweight": qweight, "qzeros": qzeros, "scales": scales},
            format=formats()["awq4"],
            rows=found.inputs,
            columns=found.outputs,
            scale_dtype=dtypes.name(scales.dtype),
            loader_params=found.params,
        )
        self._set(matrix, (found.inputs, found.outputs), scales.dtype)
