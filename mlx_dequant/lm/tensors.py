"""A folder's tensors as mlx-lm's models expect them: what their own renaming lacks, done before it."""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx

from ..errors import FormatError

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_EXPERT = re.compile(r"(.*\.mlp)\.experts\.(\d+)\.(\w+)\.weight")
_ROUTER_BIAS = "e_score_correction_bias"

Tensors = dict[str, mx.array]


def prepared(kind: str, tensors: Tensors) -> Tensors:
    """The tensors of a model type, for the `sanitize` of mlx-lm's model.

    Vectors are float32, since some models add 1 to their norms.

    Raises:
        FormatError: mlx-lm's model would drop a tensor that it should multiply by.
    """
    tensors = {name: _wide(array) for name, array in tensors.items()}
    return _KINDS[kind](tensors) if kind in _KINDS else tensors


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if array.ndim == 1 and array.dtype in (mx.float16, mx.bfloat16) else array


def _gemma3(tensors: Tensors) -> Tensors:
    """The names of transformers from 4.52 on, as those before."""
    inner, head = "model.language_model.", "lm_head."
    if not any(name.startswith(inner) for name in tensors):
        return tensors
    renamed: Tensors = {}
    for name, array in tensors.items():
        if name.startswith(inner):
            renamed[f"language_model.model.{name.removeprefix(inner)}"] = array
        elif name.startswith(head):
            renamed[f"language_model.{name}"] = array
        else:
            renamed[name.removeprefix("model.")] = array
    return renamed


def _stacked(tensors: Tensors) -> Tensors:
    """Experts one by one, as a stack of each matrix."""
    experts: dict[str, dict[int, mx.array]] = {}
    result: Tensors = {}
    for name, array in tensors.items():
        found = _EXPERT.fullmatch(name)
        if found:
            stem, number, matrix = found.groups()
            experts.setdefault(f"{stem}.switch_mlp.{matrix}.weight", {})[int(number)] = array
        else:
            result[name] = array
    for name, members in experts.items():
        result[name] = mx.stack([members[number] for number in sorted(members)])
    return result


def _ernie(tensors: Tensors) -> Tensors:
    for name, array in tensors.items():
        if name.endswith(_ROUTER_BIAS) and bool(mx.any(array)):
            raise FormatError(
                f"{name}: found numbers, expected zeros: mlx-lm's ernie4_5_moe chooses experts without it"
            )
    return tensors


_KINDS: dict[str, Callable[[Tensors], Tensors]] = {
    "gemma3": _gemma3,
    "qwen3_vl_moe": _stacked,
    "qwen3_5_moe": _stacked,
    "ernie4_5_moe": _ernie,
}
