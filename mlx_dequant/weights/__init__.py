"""Packed weights: one class a family, valid by construction."""

from .awq import AWQWeight
from .base import PackedWeight
from .gguf import GGUFWeight
from .gptq import GPTQWeight
from .packed import PackQuantizedWeight

__all__ = ["AWQWeight", "GGUFWeight", "GPTQWeight", "PackQuantizedWeight", "PackedWeight"]
