"""The host backend: the format files compiled by the machine's C++ compiler, called by plain loops.

Work is split over threads, with the GIL released. Where a loop cannot be compiled, the reference does
its work, after one warning.
"""

from . import compiler, lazy, precision
from .dequantize import dequantize
from .gather import gather
from .lazy import has_values, is_tracer
from .matmul import gather_matmul, matmul

__all__ = [
    "available",
    "dequantize",
    "gather",
    "gather_matmul",
    "has_values",
    "is_lazy",
    "is_tracer",
    "matmul",
    "precision",
]


def available() -> bool:
    """Whether a C++ compiler was found."""
    return compiler.compiler() is not None


def is_lazy() -> bool:
    """Whether products and look-ups are nodes of MLX's graphs here."""
    return lazy.primitive() is not None
