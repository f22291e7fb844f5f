"""The host backend: the format files compiled by the machine's C++ compiler, under plain loops.

Work is split over threads, with the GIL released. A program that cannot be compiled is run by the
reference, after one warning.
"""

from . import compiler
from .dequantize import dequantize
from .product import product
from .take import take

__all__ = ["available", "dequantize", "product", "take"]


def available() -> bool:
    """Whether a C++ compiler was found."""
    return compiler.compiler() is not None
