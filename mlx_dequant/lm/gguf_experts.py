"""What the config of a mixture of experts says besides, from the keys of a GGUF file.

What a key means, and what holds where a file leaves it out, is read from gguf-py's constants and converter and from
llama.cpp's models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..loading import GGUFFile
from .gguf_keys import Keys
from .rotary import FAR, NEAR

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3
GROUPS = ("expert_group_count", "expert_group_used_count")
# Keys of settings with which a type's model computes; a key that is missing or 0 says the same.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(GROUPS, (0, 1)),
    "interleave_moe_layer_step": (0, 1),
}


@dataclass(frozen=True)
class Mixture:
    """A type of mixtures.

    Attributes:
        count: the config's name for the number of experts.
        size: the config's name for the rows of an expert's gate.
        gating: the function of its router, by llama.cpp's number.
        normalized: whether the weights of the chosen experts sum to 1; None where a key says it.
        fixed: what the config has besides.
        chosen: the config's name for how many experts a token gets.
        deep: whether some layers have no experts, and some experts are always asked, as in DeepSeek's models.
        grouped: whether experts may form groups.
    """

    count: str
    size: str = "moe_intermediate_size"
    gating: int = SOFTMAX
    normalized: bool | None = True
    fixed: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = "num_experts_per_tok"
    deep: bool = False
    grouped: bool = False


MIXTURES = {
    "mixtral": Mixture("num_local_experts", "intermediate_size"),
    "qwen2_moe": Mixture("num_experts", normalized=False),
    "qwen3_moe": Mixture(
        "num_experts", fixed={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    ),
    "gpt_oss": Mixture("num_local_experts", "intermediate_size", SOFTMAX_OF_CHOSEN),
    "granitemoe": Mixture("num_local_experts", "intermediate_size"),
    "qwen3_5_moe_text": Mixture("num_experts"),
    "gemma4_text": Mixture("num_experts", fixed={"enable_moe_block": True}, chosen="top_k_experts"),
    "deepseek_v2": Mixture("n_routed_experts", normalized=False, deep=True, grouped=True),
    "deepseek_v3": Mixture("n_routed_experts", gating=SIGMOID, normalized=None, deep=True, grouped=True),
    "glm4_moe": Mixture(
        "n_routed_experts", gating=SIGMOID, normalized=None, fixed={"n_group": 1, "topk_group": 1}, deep=True
    ),
}


def config(file: GGUFFile, keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the config has besides `result`, that of a dense model of the same type."""
    kind = result["model_type"]
    form = MIXTURES[kind]
    count, chosen = keys.need("expert_count"), keys.need("expert_used_count")
    if chosen > count:
        raise keys.fail("expert_used_count", chosen, f"at most {count} (the experts)")
    gating = keys.get("expert_gating_func", form.gating)
    if gating not in (0, form.gating):
        raise keys.fail("expert_gating_func", gating, f"{form.gating} (in a {kind})")
    for key, values in PLAIN.items():
        if form.grouped and key in GROUPS:
            continue
        if keys.get(key, values[0]) not in values:
            raise keys.fail(key, keys.need(key), f"{values[-1]} (in a {kind})")
    size = keys.get("expert_feed_forward_length", 0)
    size = size or _rows(file, "ffn_down_exps", -1) or _rows(file, "ffn_down.0", -1)
    own = {form.count: count, form.chosen: chosen, form.size: size, **form.fixed}
    if form.deep:
        own |= _deep(keys, result)
    if kind == "glm4_moe":
        return own | _glm4(file, result)
    if form.grouped:
        own |= _groups(keys, kind)
    if form.normalized is None:
        return own
    if keys.get("expert_weights_norm", form.normalized, bool) != form.normalized:
        raise keys.fail("expert_weights_norm", not form.normalized, f"{form.normalized} (in a {kind})")
    scale = keys.get("expert_weights_scale", 0.0, float)
    if not form.deep and scale not in (0.0, 1.0):
        raise keys.fail("expert_weights_scale", scale, f"1.0 (in a {kind})")
    if kind in ("qwen2_moe", "qwen3_5_moe_text"):
        shared = keys.get("expert_shared_feed_forward_length", 0) or _rows(file, "ffn_up_shexp", 0)
        own["shared_expert_intermediate_size"] = shared
    if kind == "gpt_oss":
        layers = result["num_hidden_layers"]
        own["layer_types"] = result.get("layer_types", [(NEAR, FAR)[layer % 2] for layer in range(layers)])
        own["sliding_window"] = keys.need("attention.sliding_window")
    return own


def _rows(file: GGUFFile, tensor: str, axis: int) -> int:
    """A length of the first tensor of this name, 0 where there is none."""
    found = (each.shape[axis] for name, each in file.tensors.items() if name.endswith(f".{tensor}.weight"))
    return next(found, 0)


def _deep(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # Layers that predict further tokens stand behind the model's own.
    return {
        "num_hidden_layers": result["num_hidden_layers"] - keys.get("nextn_predict_layers", 0),
        "n_shared_experts": keys.need("expert_shared_count"),
        "first_k_dense_replace": keys.get("leading_dense_block_count", 0),
        "norm_topk_prob": keys.get("expert_weights_norm", False, bool),
        "routed_scaling_factor": keys.get("expert_weights_scale", 0.0, float) or 1.0,
    }


def _glm4(file: GGUFFile, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "use_qk_norm": "blk.0.attn_q_norm.weight" in file.tensors,
        "rope_parameters": {"partial_rotary_factor": 1.0, **result["rope_parameters"]},
    }


def _groups(keys: Keys, kind: str) -> dict[str, Any]:
    """How many groups the experts form, and from how many of these experts are chosen."""
    count, used = (keys.get(key, 0) or 1 for key in GROUPS)
    if used > count:
        raise keys.fail(GROUPS[1], used, f"at most {count} (the groups)")
    method = {"topk_method": "group_limited_greedy" if count > 1 else "greedy"} if kind == "deepseek_v2" else {}
    return {"n_group": count, "topk_group": used, **method}
