"""Checks of arguments. Their errors say the tensor, what was found and what was expected."""

from __future__ import annotations

from operator import index
from typing import Any

import mlx.core as mx
import numpy as np

from .. import act_order
from ..errors import FormatError

LARGEST = 2**31 - 1


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


def integer(name: str, value: Any) -> int:
    """A Python or NumPy integer."""
    try:
        return index(value)
    except TypeError:
        raise FormatError(f"{name}: found {value!r}, expected an integer") from None


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
        raise FormatError(f"{name}: found {result.dtype}, expected int32")
    rank(name, result, dimensions)
    return result.view(mx.int32)


def floats(name: str, value: Any) -> mx.array:
    """Scales: float16, bfloat16 or float32."""
    result = array(name, value)
    if result.dtype not in (mx.float16, mx.bfloat16, mx.float32):
        raise FormatError(f"{name}: found {result.dtype}, expected float16, bfloat16 or float32")
    rank(name, result, 2)
    return result


def rank(name: str, value: mx.array, dimensions: int) -> None:
    if value.ndim != dimensions:
        raise FormatError(f"{name}: found {value.ndim} axes {value.shape}, expected {dimensions}")


def shape(name: str, value: mx.array, expected: tuple[int, ...], why: str = "") -> None:
    if tuple(value.shape) != expected:
        raise FormatError(f"{name}: found shape {tuple(value.shape)}, expected {expected}{why and ' ' + why}")


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise FormatError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, allowed))}")


def extent(name: str, value: int) -> None:
    if not 0 <= value <= LARGEST:
        raise FormatError(f"{name}: found {value}, expected at most {LARGEST}")


def group_size(value: int, inputs: int) -> int:
    """The inputs in a group; -1 means a single group."""
    value = integer("group_size", value)
    if value == 0 or value < -1:
        raise FormatError(f"group_size: found {value!r}, expected a positive integer or -1")
    limit = max(inputs, 1)
    return limit if value == -1 else min(value, limit)


def groups_of(name: str, value: Any, inputs: int, groups: int, size: int) -> mx.array | None:
    """`g_idx`, checked, with vLLM's argsort(g_idx) undone; None if it is the same as input // group_size."""
    result = array(name, value)
    if result.dtype not in (mx.int32, mx.int64, mx.uint32):
        raise FormatError(f"{name}: found {result.dtype}, expected int32")
    shape(name, result, (inputs,), "(a group for each input)")
    groups_found = act_order.groups_of(name, np.asarray(result), groups, size)
    return None if groups_found is None else mx.array(groups_found)
