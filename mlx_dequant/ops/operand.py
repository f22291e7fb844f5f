"""The weights that operations take: any object with a matrix and its shape."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from ..encoded import EncodedMatrix
from ..errors import FormatError


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


def check_matrix(weight: Weight) -> None:
    """Refuses stacks of matrices."""
    if len(weight.shape) != 2:
        raise FormatError(f"weight: found shape {weight.shape}, expected a matrix")
