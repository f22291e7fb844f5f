"""Operations on quantized weights, and their rules under MLX's transformations."""

from .gather_linear import gather_linear
from .linear import linear
from .take import take

__all__ = ["gather_linear", "linear", "take"]
