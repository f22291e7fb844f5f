"""Checks of the arguments of weights: their arrays here, numbers and shapes by `mlx_dequant.checks`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import act_order
from ..checks import extent, group_size, integer, one_of, rank, shape
from ..errors import FormatError

__all__ = [
    "array", "extent", "floats", "group_size", "groups_of", "integer", "lengths", "one_of", "rank", "shape",
    "words",
]  # fmt: skip


def array(name: str, value: Any) -> mx.array:
    """An `mx.array` or a NumPy array, as a contiguous `mx.array`."""
    if isinstance(value, mx.array):
        return mx.contiguous(value)
    if not isinstance(value, np.ndarray):
        raise FormatError(f"{name}: found {type(value).__name__}, expected an mx.array or a NumPy array")
    kind = value.dtype
    if kind.kind not in "biuf" or kind.itemsize > 8 or not kind.isnative or kind == np.float64:
        raise FormatError(f"{name}: found {kind}, expected a type that MLX has")
    value = np.asarray(value, order="C")
    # NumPy calls an array of one row contiguous whatever its strides; MLX refuses negative ones.
    return mx.array(value.copy() if min(value.strides, default=0) < 0 else value)


def lengths(name: str, value: Any) -> tuple[int, ...]:
    """A shape, as integers or an array of them."""
    # NumPy cannot read an `mx.array` of bfloat16.
    try:
        flat: Any = value.reshape(-1).tolist() if isinstance(value, mx.array) else np.asarray(value).reshape(-1)
    except ValueError:  # lists of other lengths
        raise FormatError(f"{name}: found {value!r}, expected integers") from None
    return tuple(integer(name, length) for length in flat)


def words(name: str, value: Any, dimensions: int = 2) -> mx.array:
    """Words of packed codes: int32, or uint32 read as int32."""
    result = array(name, value)
    if result.dtype not in (mx.int32, mx.uint32):
        raise FormatError(f"{name}: found {result.dtype}, expected int32 or uint32")
    rank(name, result, dimensions)
    return result.view(mx.int32)


def floats(name: str, value: Any) -> mx.array:
    """Scales: float16, bfloat16 or float32."""
    result = array(name, value)
    if result.dtype not in (mx.float16, mx.bfloat16, mx.float32):
        raise FormatError(f"{name}: found {result.dtype}, expected float16, bfloat16 or float32")
    rank(name, result, 2)
    return result


def groups_of(name: str, value: Any, inputs: int, groups: int, size: int) -> mx.array | None:
    """`g_idx`, checked, with vLLM's argsort(g_idx) undone; None if it is the same as input // group_size."""
    result = array(name, value)
    if result.dtype not in (mx.int32, mx.int64, mx.uint32):
        raise FormatError(f"{name}: found {result.dtype}, expected int32, int64 or uint32")
    shape(name, result, (inputs,), "(a group for each input)")
    groups_found = act_order.groups_of(name, np.asarray(result), groups, size)
    return None if groups_found is None else mx.array(groups_found)
