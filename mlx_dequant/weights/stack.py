"""Stacks of weights: the experts of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from .base import QuantizedWeight


def stack(weights: Sequence[Any]) -> QuantizedWeight:
    """A stack [experts, out, in] of equal matrices, whatever way around one of them has its shape.

    Its arrays are new. Experts with act-order keep their own order of inputs each.

    Args:
        weights: at least one matrix; all have one format, shape, group size and type of scales.

    Raises:
        FormatError: a weight is no matrix, or differs from the first.
    """
    if not weights:
        raise FormatError("weights: found none, expected at least one")
    first: QuantizedWeight = weights[0]
    for number, weight in enumerate(weights):
        if not isinstance(weight, QuantizedWeight) or len(weight.shape) != 2:
            shape = getattr(weight, "shape", "no shape")
            raise FormatError(f"weights[{number}]: found {type(weight).__name__} {shape}, expected a quantized matrix")
        if _kind(weight) != _kind(first):
            raise FormatError(f"weights[{number}]: found {_told(weight)}, expected {_told(first)} as the first has it")
    names = first.arrays.keys()
    present = {name for name in names if any(weight.arrays[name] is not None for weight in weights)}
    arrays = {
        name: mx.stack([_array(weight, name) for weight in weights]) if name in present else None for name in names
    }
    matrix = replace(
        first.matrix,
        arrays=arrays,
        rows=first.matrix.rows * len(weights),
        has_g_idx=any(weight.matrix.has_g_idx for weight in weights),
        experts=len(weights),
    )
    made = object.__new__(type(first))
    made._set(matrix, (len(weights), first.out_features, first.in_features), first.dtype)
    return made


def _kind(weight: QuantizedWeight) -> tuple[Any, ...]:
    """All that the weights of a stack have in common."""
    shapes = {name: array.shape for name, array in weight.arrays.items() if array is not None and name != "g_idx"}
    return weight.format.name, weight.shape, weight.dtype, shapes, dict(weight.matrix.loader_params)


def _told(weight: QuantizedWeight) -> str:
    shapes = ", ".join(f"{name} {array.shape}" for name, array in weight.arrays.items() if array is not None)
    numbers = {name: value for name, value in weight.matrix.loader_params.items() if not name.startswith("group_m")}
    return f"{weight.format.title} {weight.shape} {weight.dtype} ({shapes}; {numbers})"


def _array(weight: QuantizedWeight, name: str) -> mx.array:
    """An array of a weight; an expert without act-order gets the g_idx that says so."""
    array = weight.arrays[name]
    if array is None:
        assert name == "g_idx"
        array = mx.arange(weight.in_features, dtype=mx.int32) // min(weight.matrix.group_size, weight.in_features)
    return array
