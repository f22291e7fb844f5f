"""mlx-lm's config of the model in a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError
from ..loading import GGUFFile
from . import gguf_experts
from .gguf_keys import Keys
from .rotary import yarn


@dataclass(frozen=True)
class Architecture:
    """An architecture of GGUF files.

    Attributes:
        model_type: mlx-lm's name for it; empty where all its models are mixtures of experts.
        mixture: mlx-lm's name for it with experts; empty where it has none.
        interleaved: whether the rows of queries and keys that rotate together are stored next to each other.
        norm_offset: what the converter added to the weights of norms.
        partial: whether only the first dimensions of a head may rotate.
    """

    model_type: str = ""
    mixture: str = ""
    interleaved: bool = False
    norm_offset: float = 0.0
    partial: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", "mixtral", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma3": Architecture("gemma3_text", norm_offset=1.0),
    "qwen2moe": Architecture(mixture="qwen2_moe"),
    "qwen3moe": Architecture(mixture="qwen3_moe"),
    "gpt-oss": Architecture(mixture="gpt_oss"),
    "glm4moe": Architecture(mixture="glm4_moe", partial=True),
}


def _architecture(file: GGUFFile) -> Architecture:
    name = file.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise FormatError(
            f"{file.path.name}: general.architecture: found {name!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def config(file: GGUFFile) -> dict[str, Any]:
    """mlx-lm's config of the model in a file.

    Raises:
        FormatError: the architecture is not supported, a key is missing, or its value asks for a feature that
            mlx-lm's model lacks.
    """
    form = _architecture(file)
    keys = Keys(file)
    experts = keys.get("expert_count", 0)
    kind = form.mixture if experts else form.model_type
    if not kind:
        raise keys.fail("expert_count", experts, "0 (a dense model)" if experts else "a positive integer")
    if "token_embd.weight" not in file.tensors:
        raise FormatError(f"{file.path.name}: tensor 'token_embd.weight': not found")
    layers = keys.need("block_count")
    if not 0 < layers <= len(file.tensors):
        raise keys.fail("block_count", layers, f"at most one for each of {len(file.tensors)} tensors")
    heads, hidden = keys.need("attention.head_count"), keys.need("embedding_length")
    head_dim = keys.get("attention.key_length", hidden // heads)
    for key in ("attention.value_length", *(() if form.partial else ("rope.dimension_count",))):
        if keys.get(key, head_dim) != head_dim:
            raise keys.fail(key, keys.need(key), f"{head_dim} (the length of a key)")
    result = {
        "model_type": kind,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys.need("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": keys.need("attention.layer_norm_rms_epsilon", float),
        "max_position_embeddings": keys.need("context_length"),
        "rope_theta": keys.get("rope.freq_base", 10000.0, float),
        "rope_scaling": _rope_scaling(keys),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }
    if experts:
        return result | gguf_experts.config(file, keys, result)
    return result | (_gemma3(keys, result) if form.model_type == "gemma3_text" else {})


def _rope_scaling(keys: Keys) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type", "none", str)
    if kind == "none":
        factor = keys.get("rope.scale_linear", 1.0, float)
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    if kind not in ("linear", "yarn"):
        raise keys.fail("rope.scaling.type", kind, "none, linear or yarn")
    scaling = {"rope_type": kind, "factor": keys.need("rope.scaling.factor", float)}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = keys.need("rope.scaling.original_context_length")
        names = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
        for key, name in names.items():
            value = keys.get(f"rope.scaling.{key}", None, float)
            if value is not None:
                scaling[name] = value
        factor = keys.get("rope.scaling.yarn_attn_factor", None, float)
        if factor is not None:  # llama.cpp's releases disagree whether it replaces YaRN's own factor
            raise keys.fail("rope.scaling.yarn_attn_factor", factor, "none")
        scaling = yarn(scaling)
    return scaling


def _gemma3(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # Only the 27B model scales queries by hidden size / heads. The file does not say so.
    scalar = result["hidden_size"] // result["num_attention_heads"]
    return {
        "rope_theta": keys.get("rope.freq_base", 1000000.0, float),
        "query_pre_attn_scalar": scalar if result["num_hidden_layers"] == 62 else result["head_dim"],
        "sliding_window": keys.need("attention.sliding_window"),
    }
