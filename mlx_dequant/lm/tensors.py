"""A folder's tensors and mlx-lm's names for them: what is done before and after a model's own renaming."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import mlx.core as mx

from ..errors import FormatError

# The type of placeholders. No weight has it, so a weight that mlx-lm computed from a placeholder shows.
PLACEHOLDER = mx.complex64
# The name of a quantized layer that is one of many experts.
EXPERT = re.compile(r"\.experts\.(\d+)\.\w+$")
# Mixtral's names of an expert's matrices, and mlx-lm's.
WAYS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
# The last parts of names of scales for quantized attention, which is computed without.
SCALES = (".k_scale", ".v_scale", ".q_scale", ".kv_scale")
_ROUTER_BIAS = "e_score_correction_bias"

Tensors = dict[str, mx.array]
Value = TypeVar("Value")


def place(name: str) -> str:
    """The name that mlx-lm's models give the module of a folder's weight."""
    module = name.removesuffix(".weight")
    if not EXPERT.search(module):
        return module
    stem, _, last = module.rpartition(".")
    return f"{stem.rpartition('.experts.')[0]}.switch_mlp.{WAYS.get(last, last)}"


def has_embedding(names: Iterable[str]) -> bool:
    return any("emb" in name or "wte" in name for name in names)


def with_embedding(stored: dict[str, Value], parameters: Collection[str]) -> dict[str, Value]:
    """AutoAWQ wrote the output layer in the place of the embedding that it is."""
    head = next((name for name in stored if name.endswith(HEADS)), None)
    embedding = next((name for name in parameters if name.endswith(EMBEDDINGS)), None)
    if head is None or head in parameters or embedding is None or has_embedding(stored):
        return stored
    return {embedding if name == head else name: weight for name, weight in stored.items()}


def are_equal(weight: Any, other: Any) -> bool:
    """Whether two weights are dense and have equal numbers."""
    if (
        not isinstance(weight, mx.array)
        or not isinstance(other, mx.array)
        or PLACEHOLDER in (weight.dtype, other.dtype)
    ):
        return False
    return weight.shape == other.shape and bool(mx.array_equal(weight, other))


def is_unused(name: str, named: Mapping[str, mx.array]) -> bool:
    """Whether it is zeros that AutoGPTQ wrote for a layer without bias, a scale of quantized attention, or a copy of
    the embedding."""
    if name.endswith(HEADS):
        return any(are_equal(named[name], array) for other, array in named.items() if other.endswith(EMBEDDINGS))
    return name.endswith(SCALES) or (name.endswith(".bias") and not bool(mx.any(named[name])))


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
        found = EXPERT.search(name.removesuffix(".weight"))
        if found:
            experts.setdefault(f"{place(name)}.weight", {})[int(found[1])] = array
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
