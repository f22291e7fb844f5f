"""Unpacking on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from .. import reference
from ..launch import Region, sizes, whole
from . import memory, threads
from .library import Run, library

if TYPE_CHECKING:
    from ...weights.base import QuantizedWeight


def dequantize(weight: QuantizedWeight, dtype: mx.Dtype) -> mx.array:
    run = library(weight, "dequantize", dtype)
    if run is None:
        return reference.dequantize(weight, dtype)
    part = whole(weight)
    return memory.filled(weight.shape, dtype, lambda address: unpack(run, weight, part, address))


def unpack(run: Run, weight: QuantizedWeight, part: Region, address: int) -> None:
    """Writes a region of the weight to `address`."""
    pointers = memory.pointers(weight, address)
    numbers = memory.numbers(sizes(weight, part))
    threads.split(part.rows, part.columns, lambda begin, end: run(pointers, numbers, begin, end))
