"""Latent attention of GGUF files: DeepSeek 2 and 3, whose architecture is deepseek2.

Newer files have the matrix that unfolds keys and values (kv_b) as two: for each head the keys' part, transposed, and
the values'. mlx-lm multiplies with these parts by itself, so that they are dequantized here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from .build import Weight
from .gguf_experts import SIGMOID
from .gguf_joined import Tensors
from .gguf_keys import Keys

TURNED = "rope.dimension_count"


def head(keys: Keys) -> int:
    """How many of a head's numbers turn: what transformers calls the length of a head here."""
    return keys.need(TURNED)


def settings(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # Older files say the lengths of heads by the keys that newer ones use for what is cached.
    lengths = [keys.get(f"attention.{part}_length", 0) for part in ("key", "value")]
    length = keys.get("attention.key_length_mla", lengths[0]) or keys.need("attention.key_length")
    values = keys.get("attention.value_length_mla", lengths[1]) or keys.need("attention.value_length")
    if length <= result["head_dim"]:
        raise keys.fail(TURNED, result["head_dim"], f"less than {length} (the length of a key)")
    rope = dict(result["rope_parameters"])
    if "mscale_all_dim" in rope:
        # Here the key is a tenth of the setting, and both settings are the same.
        rope |= dict.fromkeys(("mscale", "mscale_all_dim"), 10 * rope["mscale_all_dim"])
    return {
        "model_type": "deepseek_v3" if keys.get("expert_gating_func", 0) == SIGMOID else "deepseek_v2",
        "num_key_value_heads": result["num_attention_heads"],
        "kv_lora_rank": keys.need("attention.kv_lora_rank"),
        "q_lora_rank": keys.get("attention.q_lora_rank", 0) or None,
        "qk_rope_head_dim": result["head_dim"],
        "qk_nope_head_dim": length - result["head_dim"],
        "v_head_dim": values,
        "rope_parameters": rope,
    }


def tensor(parameter: str, tensors: Tensors, config: Mapping[str, Any]) -> Weight | None:
    """A parameter of what unfolds keys and values; None for any other."""
    layer, _, part = parameter.partition(".self_attn.")
    if part not in ("embed_q.weight", "unembed_out.weight", "kv_b_proj.weight"):
        return None
    prefix = f"blk.{layer.rsplit('.', 1)[1]}."
    heads, rank = config["num_attention_heads"], config["kv_lora_rank"]
    lengths = (config["qk_nope_head_dim"], config["v_head_dim"])
    if f"{prefix}attn_kv_b.weight" in tensors:
        whole = tensors(f"{prefix}attn_kv_b.weight")
        if part == "kv_b_proj.weight":
            return whole
        if whole.shape != (heads * sum(lengths), rank):
            raise FormatError(f"{prefix}attn_kv_b.weight: found {whole.shape}, expected {(heads * sum(lengths), rank)}")
        unfolds = whole.dequantize(mx.float32).reshape(heads, sum(lengths), rank)
        keys, values = unfolds[:, : lengths[0]].swapaxes(1, 2), unfolds[:, lengths[0] :]
    else:
        keys, values = (tensors(f"{prefix}attn_{name}_b.weight").dequantize(mx.float32) for name in ("k", "v"))
    if part == "kv_b_proj.weight":
        return mx.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, rank)
    return keys if part == "embed_q.weight" else values
