"""Quantized weights: one class a family, valid by construction."""

from .awq import AWQWeight
from .base import QuantizedWeight
from .compressed_tensors import CompressedTensorsWeight
from .gguf import GGUFWeight
from .gptq import GPTQWeight

# The name of the checkpoint's format, "pack-quantized".
PackQuantizedWeight = CompressedTensorsWeight

__all__ = [
    "AWQWeight",
    "CompressedTensorsWeight",
    "GGUFWeight",
    "GPTQWeight",
    "PackQuantizedWeight",
    "QuantizedWeight",
]
