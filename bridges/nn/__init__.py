"""Torch modules whose weights stay quantized, and transformers' models built of them.

`load_transformers(path)` makes a model of a folder or a GGUF file, `replace_linears(model, checkpoint)` packs the
linear layers of one that exists. Importing this package imports torch, not transformers.
"""

from .layers import AWQLinear, CompressedTensorsLinear, GGUFEmbedding, GGUFLinear, GPTQLinear, packed_linear
from .models import load_transformers, replace_linears

__all__ = [
    "AWQLinear",
    "CompressedTensorsLinear",
    "GGUFEmbedding",
    "GGUFLinear",
    "GPTQLinear",
    "load_transformers",
    "packed_linear",
    "replace_linears",
]
