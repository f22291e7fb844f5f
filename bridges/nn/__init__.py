"""Torch modules whose weights stay quantized, and transformers' models built of them.

`load_transformers(path)` makes a model of a folder or a GGUF file, `replace_linears(model, checkpoint)` packs the
linear layers of one that exists. Importing this package imports torch, not transformers; these two functions need MLX.
"""

from typing import TYPE_CHECKING, Any

from .gguf_layers import GGUFEmbedding, GGUFLinear
from .layers import AWQLinear, CompressedTensorsLinear, GPTQLinear, packed_linear

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name not in ("load_transformers", "replace_linears"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import models

    return getattr(models, name)
