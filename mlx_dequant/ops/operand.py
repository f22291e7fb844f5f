"""The weights that operations take: any object with a matrix and its shape."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from .. import dtypes
from ..encoded import EncodedMatrix
from ..errors import FormatError

SHARED = "shared product"  # in the cache of a fused weight's matrix: its share
INTEGERS = (mx.int32, mx.uint32, mx.int64, mx.uint64, mx.int16, mx.uint16, mx.int8, mx.uint8)


class Weight(Protocol):
    """A quantized weight."""

    @property
    def matrix(self) -> EncodedMatrix: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def dtype(self) -> mx.Dtype: ...


def check_stack(weight: Weight) -> None:
    """Refuses everything but a stack of matrices."""
    if len(weight.shape) != 3 or not weight.shape[0]:
        raise FormatError(f"weight: found shape {weight.shape}, expected a stack [experts, out, in]")


def matrix_of(weight: Weight) -> EncodedMatrix:
    """The weight's matrix."""
    try:
        return weight.matrix
    except AttributeError:
        raise FormatError(f"weight: found {type(weight).__name__}, expected a quantized weight") from None


def check_matrix(weight: Weight) -> None:
    """Refuses stacks of matrices."""
    if len(weight.shape) != 2:
        raise FormatError(f"weight: found shape {weight.shape}, expected a matrix")


def check_x(x: mx.array, weight: Weight) -> None:
    """Refuses an x that a linear layer of the weight does not take."""
    check_array("x", x)
    if not dtypes.is_float(x.dtype):
        raise FormatError(f"x: found {x.dtype}, expected float16, bfloat16 or float32")
    if x.ndim == 0 or x.shape[-1] != weight.in_features:
        raise FormatError(f"x: found shape {x.shape}, expected a last axis of {weight.in_features} inputs")


def check_ids(ids: mx.array) -> None:
    """Refuses ids that are no integers."""
    check_array("ids", ids)
    if ids.dtype not in INTEGERS:
        raise FormatError(f"ids: found {ids.dtype}, expected integers")


def check_array(name: str, value: Any) -> None:
    """Refuses what is no array of MLX."""
    if not isinstance(value, mx.array):
        raise FormatError(f"{name}: found {type(value).__name__}, expected an mx.array")
