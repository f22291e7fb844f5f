"""Quantized weights: one class for each family, checked when they are made."""

from .awq import AWQWeight
from .base import QuantizedWeight
from .compressed_tensors import CompressedTensorsWeight
from .gguf import GGUFWeight
from .gptq import GPTQWeight

# Named after the checkpoint format "pack-quantized".
PackQuantizedWeight = CompressedTensorsWeight

__all__ = [
    "AWQWeight",
    "CompressedTensorsWeight",
    "GGUFWeight",
    "GPTQWeight",
    "PackQuantizedWeight",
    "QuantizedWeight",
]
