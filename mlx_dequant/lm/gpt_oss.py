"""gpt-oss's folders: stacks of experts whose gates and ups are rows in turn, under mlx-lm's names."""

from __future__ import annotations

import mlx.core as mx

from ..weights import GGUFWeight, QuantizedWeight
from .build import Weight

GATE_UP = ".experts.gate_up_proj"


def separate(weights: dict[str, Weight]) -> dict[str, Weight]:
    """The same weights by module or tensor, where each expert's gate and up are matrices of their own.

    The source is OpenAI's gpt-oss: row 2 i of `gate_up_proj` is the gate's row i, row 2 i + 1 the up's.
    """
    if not any(name.endswith(GATE_UP) and _is_stack(weight) for name, weight in weights.items()):
        return weights
    result: dict[str, Weight] = {}
    for name, weight in weights.items():
        if name.endswith((GATE_UP, f"{GATE_UP}_bias")):
            for first, part in enumerate(("gate_proj", "up_proj")):
                own = name.replace("gate_up_proj_bias", f"{part}.bias").replace("gate_up_proj", part)
                result[own] = _every_other(weight, first)
        else:
            result[name.replace(".experts.down_proj_bias", ".experts.down_proj.bias")] = weight
    return result


def _is_stack(weight: Weight) -> bool:
    return isinstance(weight, GGUFWeight) and len(weight.shape) == 3


def _every_other(weight: Weight, first: int) -> Weight:
    """Every second row of each expert, from the row `first`."""
    if not isinstance(weight, QuantizedWeight):
        return mx.contiguous(weight[:, first::2])
    blocks = weight.arrays["blocks"]
    assert blocks is not None
    experts, rows, columns = weight.shape
    return GGUFWeight(
        mx.contiguous(blocks[:, first::2]), weight.format.name, (experts, (rows + 1 - first) // 2, columns)
    )
