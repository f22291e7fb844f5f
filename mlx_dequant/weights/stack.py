"""Stacks of weights: the experts of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    weights = tuple(weights)
    if not weights:
        raise FormatError("weights: found none, expected at least one")
    return stack_of(len(weights), weights)


def stack_of(count: int, weights: Iterable[Any]) -> QuantizedWeight:
    """As `stack`, of `count` weights that may be read one by one: each is copied before the next is asked for."""
    numbered = enumerate(weights)
    _, first = next(numbered)
    _check_matrix(first, 0)
    kind, told = _kind(first), _told(first)
    arrays = {name: mx.zeros((count, *array.shape), array.dtype) for name, array in _arrays(first).items()}
    indices = [first.arrays.get("g_idx")]
    _put(first, arrays, 0)
    for number, weight in numbered:
        _check_matrix(weight, number)
        if _kind(weight) != kind:
            raise FormatError(f"weights[{number}]: found {_told(weight)}, expected {told} as the first has it")
        _put(weight, arrays, number)
        indices.append(weight.arrays.get("g_idx"))
    act_order = any(index is not None for index in indices)
    matrix = replace(
        first.matrix,
        arrays={**dict.fromkeys(first.arrays), **arrays, **({"g_idx": _stacked(indices, first)} if act_order else {})},
        rows=first.matrix.rows * count,
        has_g_idx=act_order,
        experts=count,
    )
    return first._with(matrix, (count, first.out_features, first.in_features))


def _check_matrix(weight: Any, number: int) -> None:
    if not isinstance(weight, QuantizedWeight) or len(weight.shape) != 2:
        shape = getattr(weight, "shape", "no shape")
        raise FormatError(f"weights[{number}]: found {type(weight).__name__} {shape}, expected a quantized matrix")


def _arrays(weight: QuantizedWeight) -> dict[str, mx.array]:
    """Its arrays but g_idx, which some experts have and others not."""
    return {name: array for name, array in weight.arrays.items() if array is not None and name != "g_idx"}


def _put(weight: QuantizedWeight, arrays: dict[str, mx.array], number: int) -> None:
    for name, array in _arrays(weight).items():
        arrays[name][number] = array
    mx.eval(arrays)  # at once: MLX then writes into the stack, and the expert may go


def _stacked(indices: Sequence[mx.array | None], weight: QuantizedWeight) -> mx.array:
    """The experts' g_idx; one without act-order gets the g_idx that says so."""
    plain = mx.arange(weight.in_features, dtype=mx.int32) // min(weight.matrix.group_size, weight.in_features)
    return mx.stack([plain if index is None else index for index in indices])


def _kind(weight: QuantizedWeight) -> tuple[Any, ...]:
    """All that the weights of a stack have in common."""
    shapes = {name: array.shape for name, array in _arrays(weight).items()}
    return weight.format.name, weight.shape, weight.dtype, shapes, dict(weight.matrix.loader_params)


def _told(weight: QuantizedWeight) -> str:
    shapes = ", ".join(f"{name} {array.shape}" for name, array in weight.arrays.items() if array is not None)
    numbers = {name: value for name, value in weight.matrix.loader_params.items() if not name.startswith("group_m")}
    return f"{weight.format.title} {weight.shape} {weight.dtype} ({shapes}; {numbers})"
