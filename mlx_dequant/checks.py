"""Checks of numbers and shapes, for arrays of MLX and tensors of torch. Errors say what was found and expected."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Protocol

from .errors import FormatError

LARGEST = 2**31 - 1


class Shaped(Protocol):
    """An array of any framework."""

    @property
    def shape(self) -> Sequence[int]: ...


def integer(name: str, value: Any) -> int:
    """An integer of any type: Python's, NumPy's, an enumeration's."""
    try:
        return index(value)
    except TypeError:
        raise FormatError(f"{name}: found {value!r}, expected an integer") from None


def rank(name: str, value: Shaped, dimensions: int) -> None:
    if len(value.shape) != dimensions:
        raise FormatError(f"{name}: found {len(value.shape)} axes {tuple(value.shape)}, expected {dimensions}")


def shape(name: str, value: Shaped, expected: tuple[int, ...], why: str = "") -> None:
    if tuple(value.shape) != expected:
        raise FormatError(f"{name}: found shape {tuple(value.shape)}, expected {expected}{why and ' ' + why}")


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise FormatError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, allowed))}")


def extent(name: str, value: int) -> None:
    if not 0 <= value <= LARGEST:
        raise FormatError(f"{name}: found {value}, expected 0 to {LARGEST}")


def group_size(value: int, inputs: int) -> int:
    """The inputs in a group; -1 means a single group."""
    value = integer("group_size", value)
    if value == 0 or value < -1:
        raise FormatError(f"group_size: found {value!r}, expected a positive integer or -1")
    limit = max(inputs, 1)
    return limit if value == -1 else min(value, limit)
