"""The host backend: the format files compiled by the machine's C++ compiler, under row loops.

Work is split over threads, with the GIL released. A program that cannot be compiled is run by the
reference, after one warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from .. import reference
from . import memory, threads
from .compiler import compiler
from .library import dequantize_library

if TYPE_CHECKING:
    from ...weights.base import PackedWeight

RUN = 32  # weights of one step of the row loops, as in loops/dequantize.cpp


def available() -> bool:
    """Whether a C++ compiler was found."""
    return compiler() is not None


def dequantize(weight: PackedWeight, dtype: mx.Dtype) -> mx.array:
    library = dequantize_library(weight, dtype)
    if library is None:
        return reference.dequantize(weight, dtype)
    held = memory.pointers(weight)
    sizes = memory.sizes(weight)
    runs = weight.rows * -(-weight.columns // RUN)

    def fill(address: int) -> None:
        arguments = memory.argument_list([*held, address])
        threads.split(runs, RUN, lambda begin, end: library.run(arguments, sizes, begin, end))

    return memory.filled(weight.shape, dtype, fill)
