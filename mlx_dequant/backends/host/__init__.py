"""The host backend: the format files compiled by the machine's C++ compiler, called by plain loops.

Work is split over threads, with the GIL released. Where a loop cannot be compiled, the reference does
its work, after one warning.
"""

from . import compiler
from .dequantize import dequantize
from .gather import gather
from .matmul import matmul

__all__ = ["available", "dequantize", "gather", "matmul"]


def available() -> bool:
    """Whether a C++ compiler was found."""
    return compiler.compiler() is not None
