"""Operations on quantized weights, and their rules under MLX's transformations."""

from .linear import linear
from .take import take

__all__ = ["linear", "take"]
