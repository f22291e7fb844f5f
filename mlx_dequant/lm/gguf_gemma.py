"""Gemma 3n and Gemma 4 of GGUF files: layers with keys of others, inputs of their own, heads of two lengths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..weights import GGUFWeight
from .build import Weight
from .gguf_joined import Tensors
from .gguf_keys import Keys
from .rotary import FAR, NEAR

SOFTCAP = 30.0  # llama.cpp's default
STACKED = {"altup_projections": "altup_proj.weight", "altup_unembed_projections": "altup_unembd_proj.weight"}
ONE_OF = re.compile(r"(altup_\w*projections)\.(\d+)\.weight$")
# What gguf-py's tables do not have, or without an ending.
NAMES = {
    "altup.correct_output_scale": "altup_correct_scale.weight",
    "layer_scalar": "layer_output_scale.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    **{f"experts.switch_glu.{part}_proj.weight": f"ffn_{part}_exps.weight" for part in ("gate", "up", "down")},
}

UNUSED = {
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}


def bases(keys: Keys) -> tuple[float, float]:
    """The bases of layers that see everything and of those that see a window. The second names are Ollama's."""
    far = keys.get("rope.freq_base", None, float) or keys.get("rope.global.freq_base", 1e6, float)
    near = keys.get("rope.freq_base_swa", None, float) or keys.get("rope.local.freq_base", 1e4, float)
    return far, near


def _both(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    far, near = bases(keys)
    if "layer_types" not in result:
        found = keys.get("attention.sliding_window_pattern", None)
        raise keys.fail("attention.sliding_window_pattern", found, "a value a layer")
    rope = {**result["rope_parameters"], "rope_theta": far}
    own = {
        "sliding_window": keys.need("attention.sliding_window"),
        "num_kv_shared_layers": keys.get("attention.shared_kv_layers", 0),
        "hidden_size_per_layer_input": keys.get("embedding_length_per_layer_input", 0),
        "final_logit_softcapping": keys.get("final_logit_softcapping", SOFTCAP, float),
        "rope_parameters": {FAR: rope, NEAR: {"rope_type": "default", "rope_theta": near}},
    }
    embedding = keys.tensors.get("per_layer_token_embd.weight")
    return own | ({"vocab_size_per_layer_input": embedding.shape[0]} if embedding else {})


def settings_3n(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    layers, rank = result["num_hidden_layers"], "blk.0.laurel_l.weight"
    if rank not in keys.tensors:
        raise FormatError(f"{keys.file}: tensor {rank!r}: not found")
    sizes = result["intermediate_size"]
    # How many standard deviations a gate must exceed the mean; transformers says which share does not.
    scales = keys.layers("activation_sparsity_scale", layers) or [-math.inf] * layers
    return _both(keys, result) | {
        "intermediate_size": sizes if isinstance(sizes, list) else [sizes] * layers,
        "laurel_rank": keys.tensors[rank].shape[0],
        "altup_num_inputs": keys.need("altup.num_inputs"),
        "altup_active_idx": keys.get("altup.active_idx", 0),
        "altup_correct_scale": True,
        "activation_sparsity_pattern": [0.5 * math.erfc(-scale / math.sqrt(2)) for scale in scales],
    }


def settings_4(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    both, layers = _both(keys, result), result["num_hidden_layers"]
    kinds = result["layer_types"]
    heads = keys.layers("attention.head_count_kv", layers) or [result["num_key_value_heads"]] * layers
    far, near = (_one(keys, heads, kinds, kind) for kind in (FAR, NEAR))
    own, shared = [kind == FAR for kind in kinds], both["num_kv_shared_layers"]
    first = next((number for number in range(layers - shared) if own[number]), 0)
    length = keys.need("attention.key_length_swa")
    for key, expected in (("attention.value_length_swa", length), ("rope.dimension_count_swa", length)):
        if keys.get(key, expected) != expected:
            raise keys.fail(key, keys.need(key), f"{expected}, as key_length_swa")
    return both | {
        **_widths(keys, result["intermediate_size"], layers, shared),
        "head_dim": length,
        "global_head_dim": result["head_dim"],
        "num_key_value_heads": near,
        "num_global_key_value_heads": far,
        # Keys are values where there are none.
        "attention_k_eq_v": f"blk.{first}.attn_v.weight" not in keys.tensors,
    }


def _one(keys: Keys, heads: list[int], kinds: list[str], kind: str) -> int:
    found = {number for number, each in zip(heads, kinds, strict=True) if each == kind}
    if len(found) > 1:
        raise keys.fail("attention.head_count_kv", sorted(found), f"one number in layers of {kind}")
    return found.pop() if found else heads[0]


def _widths(keys: Keys, sizes: int | list[int], layers: int, shared: int) -> dict[str, Any]:
    """Layers that use keys of others may be twice as wide."""
    if isinstance(sizes, int):
        return {"intermediate_size": sizes, "use_double_wide_mlp": False}
    if sizes != [sizes[0]] * (layers - shared) + [2 * sizes[0]] * shared:
        raise keys.fail("feed_forward_length", sizes, f"{sizes[0]}, and twice that in the last {shared} layers")
    return {"intermediate_size": sizes[0], "use_double_wide_mlp": True}


def tensor(parameter: str, tensors: Tensors, config: Mapping[str, Any]) -> Weight | None:
    """A parameter whose tensor has another form or a name of its own; None for any other."""
    if found := ONE_OF.search(parameter):
        return _matrix(tensors(STACKED[found[1]]), int(found[2]))
    _, _, rest = parameter.partition(".layers.")
    number, _, part = rest.partition(".")
    if part in UNUSED and int(number) >= config["num_hidden_layers"] - config["num_kv_shared_layers"]:
        return _unused(tensors, f"blk.{number}.{UNUSED[part]}", config)
    if part not in NAMES:
        return None
    if part == "layer_scalar" and f"blk.{number}.{NAMES[part]}" not in tensors:
        return mx.ones(1)
    weight = tensors(f"blk.{number}.{NAMES[part]}")
    return weight if len(weight.shape) > 1 else weight.dequantize(mx.float32)


def _unused(tensors: Tensors, name: str, config: Mapping[str, Any]) -> Weight:
    """What a layer with keys of another would make its own of, which some files have and nothing reads."""
    if name in tensors:
        return tensors(name)
    length = config["head_dim"]
    norm = name.endswith("norm.weight")
    return mx.zeros(length if norm else (config["num_key_value_heads"] * length, config["hidden_size"]))


def _matrix(stack: GGUFWeight, number: int) -> GGUFWeight:
    if len(stack.shape) != 3 or number >= stack.shape[0]:
        raise FormatError(f"found a weight of {stack.shape}, expected more than {number} matrices")
    blocks: Any = stack.arrays["blocks"]
    return GGUFWeight(mx.contiguous(blocks[number]), stack.format.title)
