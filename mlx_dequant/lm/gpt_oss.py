"""gpt-oss's folders: stacks of experts whose gates and ups are rows in turn, under mlx-lm's names."""

from __future__ import annotations

import mlx.core as mx

from ..errors import FormatError
from ..weights import GGUFWeight, QuantizedWeight
from .build import Weight

GATE_UP = ".experts.gate_up_proj"


def separate(weights: dict[str, Weight]) -> dict[str, Weight]:
    """The same weights by module or tensor, where each expert's gate and up are matrices of their own.

    They are taken out of `weights` one by one, so that no more than one stack exists twice.

    The source is OpenAI's gpt-oss: row 2 i of `gate_up_proj` is the gate's row i, row 2 i + 1 the up's.
    """
    if not any(name.endswith(f"{GATE_UP}_bias") for name in weights):
        return weights
    result: dict[str, Weight] = {}
    for name in list(weights):
        weight = weights.pop(name)
        if name.endswith((GATE_UP, f"{GATE_UP}_bias")):
            for first, part in enumerate(("gate_proj", "up_proj")):
                own = name.replace("gate_up_proj_bias", f"{part}.bias").replace("gate_up_proj", part)
                result[_full(own, weight)] = _every_other(_rows(weight), first)
        else:
            own = name.replace(".experts.down_proj_bias", ".experts.down_proj.bias")
            is_stack = name.endswith(".experts.down_proj")
            result[_full(own, weight) if is_stack else own] = _rows(weight) if is_stack else weight
    return result


def _full(name: str, weight: Weight) -> str:
    return name if isinstance(weight, QuantizedWeight) or name.endswith(".bias") else f"{name}.weight"


def _rows(weight: Weight) -> Weight:
    """A stack [experts, out, in]; transformers stores one that is not packed as [experts, in, out]."""
    return weight if isinstance(weight, QuantizedWeight) or weight.ndim != 3 else mx.contiguous(weight.swapaxes(1, 2))


def _every_other(weight: Weight, first: int) -> Weight:
    """Every second row of each expert, from the row `first`."""
    if not isinstance(weight, QuantizedWeight):
        return mx.contiguous(weight[:, first::2])
    if not isinstance(weight, GGUFWeight) or len(weight.shape) != 3:
        raise FormatError(f"{GATE_UP[1:]}: found {weight.format.title} {weight.shape}, expected a stack of MXFP4")
    blocks = weight.arrays["blocks"]
    assert blocks is not None
    experts, rows, columns = weight.shape
    return GGUFWeight(
        mx.contiguous(blocks[:, first::2]), weight.format.name, (experts, (rows + 1 - first) // 2, columns)
    )
