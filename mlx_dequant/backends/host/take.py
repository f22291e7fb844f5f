"""Rows or columns of a packed weight, picked on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from .. import reference
from ..launch import sizes, whole
from . import memory, threads
from .library import library

if TYPE_CHECKING:
    from ...weights.base import QuantizedWeight


def take(weight: QuantizedWeight, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    run = library(weight, "gather_columns" if axis else "gather_rows", dtype)
    if run is None:
        return reference.take(weight, ids, dtype, axis)
    picked = reference.checked_ids(ids, weight.columns if axis else weight.rows)
    length = weight.rows if axis else weight.columns
    numbers = memory.numbers(sizes(weight, whole(weight)))

    def fill(address: int) -> None:
        pointers = memory.pointers(weight, picked.ctypes.data, address)
        threads.split(len(picked), length, lambda begin, end: run(pointers, numbers, begin, end))

    return memory.filled((len(picked), length), dtype, fill)
