"""Quantized weights: one class for each family, checked when they are made."""

from typing import Any

from .awq import AWQWeight
from .base import QuantizedWeight
from .compressed_tensors import CompressedTensorsWeight
from .gguf import GGUFWeight
from .gptq import GPTQWeight
from .stack import stack

# Named after the checkpoint format "pack-quantized".
PackQuantizedWeight = CompressedTensorsWeight

_CLASSES = (AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight)


def weight_class(family: str) -> type[Any]:
    """The class of a family, by the family's name in the registry."""
    return next(kind for kind in _CLASSES if kind.family == family)


__all__ = [
    "AWQWeight",
    "CompressedTensorsWeight",
    "GGUFWeight",
    "GPTQWeight",
    "PackQuantizedWeight",
    "QuantizedWeight",
    "stack",
    "weight_class",
]
