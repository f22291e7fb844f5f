"""GPT-2's folders, whose names and matrices mlx-lm's model takes in one form only."""

from __future__ import annotations

from ..weights import QuantizedWeight
from .build import Weight

# Triangular masks, and a copy of the embedding.
LEFT_OUT = (".attn.bias", ".attn.masked_bias", "lm_head.weight")


def renamed(weights: dict[str, Weight]) -> dict[str, Weight]:
    """The same weights by module or tensor, under the names that mlx-lm's model reads.

    It turns the matrices of layers round, as transformers stores them [in, out]. Quantized ones are [out, in] already:
    they get their names in its model at once, which it leaves alone.
    """
    result: dict[str, Weight] = {}
    for name, weight in weights.items():
        short = name.removeprefix("transformer.")
        if not short.endswith(LEFT_OUT):
            result[f"model.{short}" if isinstance(weight, QuantizedWeight) else short] = weight
    return result
