"""The architectures of GGUF files, a row each. Facts are from llama.cpp's converters and graphs.

`docs/mlx-lm.md` has them as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import gguf_delta, gguf_falcon, gguf_gemma, gguf_latent
from .build import Weight
from .gguf_joined import Tensors
from .gguf_keys import Keys
from .rotary import FAR, NEAR


@dataclass(frozen=True)
class Architecture:
    """An architecture of GGUF files.

    Attributes:
        model_type: transformers' and mlx-lm's name for it; empty where all its models are mixtures of experts.
        mixture: the same of its mixtures of experts; empty where it has none.
        interleaved: whether the rows of queries and keys that rotate together are stored next to each other.
        norm_offset: what the converter added to the weights of norms.
        epsilon: the config's name for what is added to variances.
        means: whether norms subtract a mean.
        numbers: by the file's keys: the config's names for floats.
        more: what the config has besides, from the file and from what is known already.
        outer: mlx-lm's model of pictures and text, where it has the text model only inside of one.
        head: the length of a head, where it is not that of a key.
        mixed: whether layers may have different numbers of heads of keys and values.
        tensor: the weight of a parameter that is not one tensor as it is; None for the others.
    """

    model_type: str = ""
    mixture: str = ""
    interleaved: bool = False
    norm_offset: float = 0.0
    epsilon: str = "rms_norm_eps"
    means: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[Keys, Mapping[str, Any]], dict[str, Any]] | None = None
    outer: str = ""
    head: Callable[[Keys], int] | None = None
    mixed: bool = False
    tensor: Callable[[str, Tensors, Mapping[str, Any]], Weight | None] | None = None


def _head(result: Mapping[str, Any]) -> int:
    return result["hidden_size"] // result["num_attention_heads"]


def _gemma2(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # Only the 27B model scales queries by hidden size / heads. The file does not say so.
    big = result["num_hidden_layers"] == 46
    return {
        "query_pre_attn_scalar": _head(result) if big else result["head_dim"],
        "sliding_window": keys.get("attention.sliding_window", 4096),
    }


def _gemma3(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    base, local = gguf_gemma.bases(keys)
    far = {**result["rope_parameters"], "rope_theta": base}
    near = {"rope_type": "default", "rope_theta": local}
    return {
        "rope_parameters": {FAR: far, NEAR: near},
        "query_pre_attn_scalar": _head(result) if result["num_hidden_layers"] == 62 else result["head_dim"],
        "sliding_window": keys.need("attention.sliding_window"),
    }


def _phi3(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    length = keys.get("rope.scaling.original_context_length", 0)
    return {"original_max_position_embeddings": length} if length else {}


def _mistral3(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    beta = keys.get("attention.temperature_scale", 0.0, float)
    if not beta:
        return {"model_type": "mistral"}
    rope = {**result["rope_parameters"], "llama_4_scaling_beta": beta}
    length = rope.get("original_max_position_embeddings")
    if keys.get("attention.temperature_length", length) != length:
        raise keys.fail("attention.temperature_length", keys.need("attention.temperature_length"), f"{length}")
    return {"rope_parameters": rope}


MULTIPLIERS = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _granite(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_multiplier": keys.get("attention.scale", _head(result) ** -0.5, float)}


def _olmo2(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"model_type": "olmo3"} if result.get("sliding_window") else {}


def _stablelm(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in keys.tensors,
        "use_qkv_bias": "blk.0.attn_q.bias" in keys.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in keys.tensors,
    }


def _command_r(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_qk_norm": "blk.0.attn_q_norm.weight" in keys.tensors}


def _starcoder2(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_bias": "blk.0.ffn_up.bias" in keys.tensors}


def _exaone4(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # All layers see everything, and rotate, where the file has no window.
    return {} if result["sliding_window"] else {"layer_types": [FAR] * result["num_hidden_layers"]}


def _lfm2(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    count = result["num_hidden_layers"]
    heads = keys.layers("attention.head_count_kv", count) or [result["num_key_value_heads"]] * count
    return {
        "layer_types": [FAR if number else "conv" for number in heads],
        "conv_L_cache": keys.need("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "mixtral", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", norm_offset=1.0),
    "gemma2": Architecture(
        "gemma2",
        norm_offset=1.0,
        numbers={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        more=_gemma2,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        norm_offset=1.0,
        numbers={"final_logit_softcapping": "final_logit_softcapping"},
        more=_gemma3,
    ),
    "gemma3n": Architecture("gemma3n_text", more=gguf_gemma.settings_3n, outer="gemma3n", tensor=gguf_gemma.tensor),
    "gemma4": Architecture(
        "gemma4_text", "gemma4_text", more=gguf_gemma.settings_4, mixed=True, tensor=gguf_gemma.tensor
    ),
    "phi3": Architecture("phi3", more=_phi3),
    "mistral3": Architecture("ministral3", interleaved=True, more=_mistral3),
    "glm4": Architecture("glm4"),
    "granite": Architecture("granite", interleaved=True, numbers=MULTIPLIERS, more=_granite),
    "granitemoe": Architecture(mixture="granitemoe", interleaved=True, numbers=MULTIPLIERS, more=_granite),
    "olmo2": Architecture("olmo2", more=_olmo2),
    "smollm3": Architecture("smollm3", interleaved=True),
    "stablelm": Architecture("stablelm", epsilon="layer_norm_eps", means=True, more=_stablelm),
    "command-r": Architecture(
        "cohere", epsilon="layer_norm_eps", means=True, numbers={"logit_scale": "logit_scale"}, more=_command_r
    ),
    "cohere2": Architecture("cohere2", epsilon="layer_norm_eps", means=True, numbers={"logit_scale": "logit_scale"}),
    "starcoder2": Architecture("starcoder2", epsilon="norm_epsilon", means=True, more=_starcoder2),
    "exaone4": Architecture("exaone4", more=_exaone4),
    "lfm2": Architecture("lfm2", epsilon="norm_eps", more=_lfm2),
    "internlm2": Architecture("llama", interleaved=True),
    "falcon-h1": Architecture("falcon_h1", more=gguf_falcon.settings, tensor=gguf_falcon.tensor),
    "qwen2moe": Architecture(mixture="qwen2_moe"),
    "qwen3moe": Architecture(mixture="qwen3_moe"),
    "qwen2vl": Architecture("qwen2"),
    "qwen3vl": Architecture("qwen3"),
    "qwen3vlmoe": Architecture(mixture="qwen3_moe"),
    "glm4moe": Architecture(mixture="glm4_moe"),
    "gpt-oss": Architecture(mixture="gpt_oss"),
    "deepseek2": Architecture(
        mixture="deepseek_v3", more=gguf_latent.settings, head=gguf_latent.head, tensor=gguf_latent.tensor
    ),
    "qwen3next": Architecture(
        mixture="qwen3_5_moe_text", more=gguf_delta.settings, outer="qwen3_5_moe", tensor=gguf_delta.tensor
    ),
    "qwen35": Architecture("qwen3_5_text", more=gguf_delta.tiled_settings, outer="qwen3_5", tensor=gguf_delta.tensor),
    "qwen35moe": Architecture(
        mixture="qwen3_5_moe_text", more=gguf_delta.tiled_settings, outer="qwen3_5_moe", tensor=gguf_delta.tensor
    ),
}
