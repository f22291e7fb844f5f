"""GGUF files of models whose parameters the converter joins, splits, reorders or scales, in mixed types.

What the converter does stands here a second time, for the numbers of a parameter's elements: where a tensor's elements
come from says where its unpacked values belong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import gguf_encoders
import numpy as np
import torch
import transformers
from lm_models import SHAPE, adjacent, rope, write_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Array = np.ndarray
SHAPES = {**SHAPE, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4, "head_dim": 64}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 128,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    **rope(1e6, partial_rotary_factor=0.25),
}
DELTA_KEYS = {
    "full_attention_interval": 2,
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": 6 * 128,
    "rope.dimension_count": 16,
}
MIXTURE_KEYS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 256,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "head_dim": 16,
    **EXPERTS,
}
LATENT_KEYS = {
    "attention.head_count_kv": 1,
    "attention.key_length": 256 + 16,
    "attention.value_length": 256,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 64,
    "attention.kv_lora_rank": 256,
    "rope.dimension_count": 16,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_shared_count": 1,
    "expert_feed_forward_length": 256,
    "expert_weights_scale": 1.5,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.07,
}
OLD_LATENT = {"attention.head_count_kv": 4, "attention.key_length": 48, "attention.value_length": 64}
SIGMOID = {"expert_gating_func": 2, "expert_weights_norm": True}
GRANITE = {"attention_multiplier": 0.1, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 3.0}
GRANITE_KEYS = {"attention.scale": 0.1, "embedding_scale": 2.0, "residual_scale": 0.5, "logit_scale": 3.0}

# By name: transformers' model type, what its config has besides SHAPES, the file's architecture and further keys.
FILES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "granitemoe": (
        "granitemoe",
        {"num_local_experts": 8, "num_experts_per_tok": 2, **GRANITE, **rope(1e4)},
        "granitemoe",
        {"expert_count": 8, "expert_used_count": 2, **GRANITE_KEYS},
    ),
    "deepseek2, V2": (
        "deepseek_v2",
        {**LATENT, "q_lora_rank": None, **rope(1e4, **YARN)},
        "deepseek2",
        {**LATENT_KEYS, **YARN_KEYS},
    ),
    "deepseek2, V2, keys and values joined": (
        "deepseek_v2",
        {**LATENT, "q_lora_rank": 128, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"}
        | rope(1e4, **YARN),
        "deepseek2",
        {**LATENT_KEYS, **YARN_KEYS, **OLD_LATENT, "attention.q_lora_rank": 128, "expert_group_count": 4}
        | {"expert_group_used_count": 2},
    ),
    "deepseek2, V3": (
        "deepseek_v3",
        {**LATENT, "q_lora_rank": 128, "n_group": 2, "topk_group": 1, "norm_topk_prob": True, **rope(1e4, **YARN)},
        "deepseek2",
        {**LATENT_KEYS, **SIGMOID, **YARN_KEYS, "attention.q_lora_rank": 128, "expert_group_count": 2}
        | {"expert_group_used_count": 1},
    ),
    "deepseek2, V3, keys and values joined": (
        "deepseek_v3",
        {**LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, **rope(1e4)},
        "deepseek2",
        {**LATENT_KEYS, **SIGMOID, **OLD_LATENT},
    ),
    "qwen35": ("qwen3_5_text", DELTA, "qwen35", {**DELTA_KEYS, "rope.dimension_sections": [3, 3, 2, 0]}),
    "qwen35, as many heads": (
        "qwen3_5_text",
        {**DELTA, "linear_num_value_heads": 2, "tie_word_embeddings": True},
        "qwen35",
        {**DELTA_KEYS, "ssm.inner_size": 2 * 128, "attention.recurrent_layers": [True, False, True, False]},
    ),
    "qwen35moe": (
        "qwen3_5_moe_text",
        {**DELTA, **EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 512},
        "qwen35moe",
        {**DELTA_KEYS, **MIXTURE_KEYS, "feed_forward_length": None},
    ),
    "qwen3next": (
        "qwen3_next",
        {**DELTA, **EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 512, "norm_topk_prob": True},
        "qwen3next",
        {**DELTA_KEYS, **MIXTURE_KEYS},
    ),
    "qwen3next, queries to gates joined": (
        "qwen3_next",
        {**DELTA, **EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 512, "norm_topk_prob": True},
        "qwen3next",
        {**DELTA_KEYS, **MIXTURE_KEYS},
    ),
}
FACTORS = {
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.75,
    "key_multiplier": 0.5,
    "embedding_multiplier": 4.0,
    "lm_head_multiplier": 0.25,
    "mlp_multipliers": [0.75, 0.5],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.5,
    "ssm_multipliers": [0.5, 0.25, 0.75, 1.5, 1.25],
}
MAMBA = {
    **{"mamba_d_ssm": 256, "mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 32, "mamba_d_conv": 4},
    **FACTORS,
    **rope(1e5),
}
MAMBA_KEYS = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.group_count": "mamba_n_groups",
}
FILES |= {
    "falcon-h1": ("falcon_h1", {**MAMBA, "mamba_n_groups": 2, "mamba_rms_norm": False}, "falcon-h1", MAMBA_KEYS),
    "falcon-h1, norm": (
        "falcon_h1",
        {**MAMBA, "mamba_n_groups": 1, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
        "falcon-h1",
        MAMBA_KEYS,
    ),
}
NEAR_FAR = ["sliding_attention", "full_attention"]
BY_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
}
PROPORTIONAL = {**BY_KIND, "full_attention": {**BY_KIND["full_attention"], "rope_type": "proportional"}}
PROPORTIONAL["full_attention"]["partial_rotary_factor"] = 0.25
GEMMA_KEYS = {
    "rope.freq_base": 1e6,
    "attention.sliding_window": 8,
    "attention.sliding_window_pattern": [True, False] * 2,
    "final_logit_softcapping": 30.0,
}
GEMMA = {"tie_word_embeddings": True, "sliding_window": 8, "layer_types": NEAR_FAR * 2, "final_logit_softcapping": 30.0}
GEMMA4 = {**GEMMA, "head_dim": 32, "global_head_dim": 64, "rope_parameters": PROPORTIONAL}
GEMMA4_KEYS = {
    **GEMMA_KEYS,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.key_length_swa": 32,
    "attention.value_length_swa": 32,
    "rope.dimension_count": 64,
    "rope.dimension_count_swa": 32,
}
FILES |= {
    "gemma3n": (
        "gemma3n_text",
        {
            **GEMMA,
            "rope_parameters": BY_KIND,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": SHAPE["vocab_size"],
            "hidden_size_per_layer_input": 32,
            "laurel_rank": 32,
            "activation_sparsity_pattern": [0.75, 0.0, 0.5, 0.0],
        },
        "gemma3n",
        {
            **GEMMA_KEYS,
            "altup.active_idx": 0,
            "altup.num_inputs": 4,
            "embedding_length_per_layer_input": 32,
            "attention.shared_kv_layers": 2,
            "activation_sparsity_scale": [0.6744897501960817, float("-inf"), 0.0, float("-inf")],
        },
    ),
    "gemma4, inputs of each layer": (
        "gemma4_text",
        {
            **GEMMA4,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "vocab_size_per_layer_input": SHAPE["vocab_size"],
            "hidden_size_per_layer_input": 32,
        },
        "gemma4",
        {
            **GEMMA4_KEYS,
            "attention.shared_kv_layers": 2,
            "embedding_length_per_layer_input": 32,
            "feed_forward_length": [256, 256, 512, 512],
        },
    ),
    "gemma4, experts": (
        "gemma4_text",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 128,
        },
        "gemma4",
        {
            **GEMMA4_KEYS,
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
            "attention.head_count_kv": [2, 1, 2, 1],
            "expert_count": 8,
            "expert_used_count": 2,
            "expert_feed_forward_length": 128,
        },
    ),
}
TYPES = ("Q8_0", "Q4_0", "Q6_K", "Q5_1", "F16", "Q4_1")


def model_of(name: str) -> Any:
    """transformers' model in float32, its norms, biases and routers random too."""
    kind, extra, _, _ = FILES[name]
    torch.manual_seed(len(name))
    known = CONFIG_MAPPING[kind]().to_dict()
    config = CONFIG_MAPPING[kind](**{**{key: value for key, value in SHAPES.items() if key in known}, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.ndim == 1:
                tensor.add_(0.3 * torch.randn_like(tensor))
            elif "mlp.gate." in key or "router" in key:
                tensor.normal_(std=0.1)
            elif tensor.ndim < 3:
                tensor.mul_(0.3)
            if key.endswith("correction_bias"):
                tensor.abs_()  # mlx-lm takes the scores of a group that is left out for 0
    return model


def write_family(path: Path, name: str, model: Any) -> None:
    """Writes the model, and gives it the weights that the file's tensors then have."""
    _, _, architecture, extra = FILES[name]
    config = model.config.to_dict()
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    numbers = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config.get("intermediate_size"),
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config["rope_parameters"].get("rope_theta", 0)),
        **{key: config.get(value, value) if isinstance(value, str) else value for key, value in extra.items()},
    }
    numbers = {key: value for key, value in numbers.items() if value is not None}
    factors = np.array([1.0] * 8 + [1e30] * 24, np.float32)
    extra_tensors = [("rope_freqs.weight", factors, None)] if architecture == "gemma4" else []
    write_file(path, architecture, numbers, [*extra_tensors, *encoded(name, model)])


def encoded(name: str, model: Any) -> Iterator[tuple[str, Array, Any]]:
    """Tensors by the file's names, packed; the model gets them unpacked."""
    architecture = FILES[name][2]
    known = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(known, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    number, stacks = 0, dict[str, list[Array]]()
    for parameter, tensor in model.state_dict().items():
        if tied and parameter == "lm_head.weight":
            continue
        if "altup_" in parameter:  # the file has them as one
            values = tensor.numpy()
            data = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            values[...] = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q8_0)
            stack = stacks.setdefault(parameter.split(".")[1], [])
            stack.append(data)
            if len(stack) == 3:
                known_as = f"model.{parameter.split('.')[1]}.weight"
                yield names.get_name(known_as, (".weight",)), np.stack(stack), gguf.GGMLQuantizationType.Q8_0
            continue
        values = tensor.numpy().reshape(-1)
        elements = np.arange(values.size).reshape(tensor.shape)
        for part, at in parts(name, parameter, elements, model.config):
            number += 1
            there, back = scaled(architecture, parameter, model.config)
            stored = there(values[at]).astype(np.float32)
            raw = kind_of(part, stored, number)
            data = gguf_encoders.q6_k(stored) if raw.name == "Q6_K" else gguf.quants.quantize(stored, raw)
            values[at] = back(gguf.quants.dequantize(data, raw).reshape(at.shape))
            yield names.get_name(part, (".weight", ".bias")) or part, data, raw


def kind_of(name: str, values: Array, number: int) -> Any:
    small = values.ndim == 1 or values.shape[-1] % 32 or "conv1d" in name or "mlp.gate." in name or "router" in name
    if small:
        return gguf.GGMLQuantizationType.F32
    if "out_proj" in name:
        return gguf.GGMLQuantizationType.Q6_K  # blocks of 256 inputs hold parts of two heads
    kinds = TYPES if values.ndim == 2 and values.shape[-1] % 256 == 0 else ("Q8_0", "Q4_0", "Q5_1")
    return gguf.GGMLQuantizationType[kinds[number % len(kinds)]]


def scaled(architecture: str, parameter: str, config: Any) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """What the converter does to values, and the same undone."""
    if parameter.endswith("A_log"):
        return lambda x: -np.exp(x), lambda x: np.log(-x)
    if architecture.startswith("qwen3") and parameter.endswith("norm.weight") and "linear_attn" not in parameter:
        return lambda x: x + np.float32(1), lambda x: x - np.float32(1)
    factor = np.float32(factors(parameter, config) if architecture == "falcon-h1" else 1)
    return lambda x: x * factor, lambda x: x / factor


def factors(parameter: str, config: Any) -> Any:
    """What a parameter of Falcon-H1 is multiplied by."""
    module = parameter.split(".")[-2]
    inner, states = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
    sizes = [inner, inner, states, states, config.mamba_n_heads]
    given = config.attention_in_multiplier
    known = {
        "embed_tokens": config.embedding_multiplier,
        "lm_head": config.lm_head_multiplier,
        "q_proj": given,
        "k_proj": given * config.key_multiplier,
        "v_proj": given,
        "o_proj": config.attention_out_multiplier,
        "gate_proj": config.mlp_multipliers[0],
        "down_proj": config.mlp_multipliers[1],
        "in_proj": config.ssm_in_multiplier * np.repeat(config.ssm_multipliers, sizes)[:, None],
        "out_proj": config.ssm_out_multiplier,
    }
    return known.get(module, 1)


def parts(name: str, parameter: str, at: Array, config: Any) -> Iterator[tuple[str, Array]]:
    """The tensors that a parameter becomes, by names that gguf-py knows or by their own."""
    layer = parameter.split(".")[2] if ".layers." in parameter else ""
    if parameter.endswith("experts.gate_up_proj"):
        for part, half in zip(("gate", "up"), np.split(at, 2, axis=1), strict=True):
            yield f"blk.{layer}.ffn_{part}_exps.weight", half
    elif parameter.endswith("experts.down_proj"):
        yield f"blk.{layer}.ffn_down_exps.weight", at
    elif ".mamba." in parameter:
        named = {"A_log": "ssm_a", "D": "ssm_d", "dt_bias": "ssm_dt.bias"}
        own = named.get(parameter.split(".")[-1])
        at = at.squeeze(1) if parameter.endswith("conv1d.weight") else at[:, None] if own in ("ssm_a", "ssm_d") else at
        at = at.reshape(config.mamba_n_groups, -1) if parameter.endswith("norm.weight") else at
        yield f"blk.{layer}.{own}" if own else parameter, at
    elif ".linear_attn." in parameter:
        yield from delta_parts(name, parameter, at, config)
    elif parameter.endswith(("correct_output_scale", "layer_scalar")):
        yield f"{parameter}.weight", at
    elif parameter.endswith(("router.scale", "router.per_expert_scale")):
        yield f"blk.{layer}.{'ffn_down_exps' if 'per' in parameter else 'ffn_gate_inp'}.scale", at
    elif parameter.endswith("kv_b_proj.weight") and "joined" not in name:
        heads = at.reshape(config.num_attention_heads, -1, at.shape[1])
        yield f"blk.{layer}.attn_k_b.weight", heads[:, : config.qk_nope_head_dim].swapaxes(1, 2)
        yield f"blk.{layer}.attn_v_b.weight", heads[:, config.qk_nope_head_dim :]
    elif name == "granitemoe" and ("q_proj" in parameter or "k_proj" in parameter):
        yield parameter, adjacent(at, config.num_attention_heads if "q_proj" in parameter else 2)
    elif name == "granitemoe" and parameter.endswith("router.weight"):
        yield f"blk.{layer}.ffn_gate_inp.weight", at
    else:
        yield parameter.replace("score_correction_bias", "score_correction.bias"), at


def delta_parts(name: str, parameter: str, at: Array, config: Any) -> Iterator[tuple[str, Array]]:
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    length, before = config.linear_value_head_dim, 2 * keys * config.linear_key_head_dim
    block, module = parameter.split(".")[2], parameter.split(".linear_attn.")[1].removesuffix(".weight")

    def tiled(rows: Array, length: int = 1) -> Array:
        if name.startswith("qwen3next"):
            return rows
        return rows.reshape(keys, values // keys, length, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    if module in ("in_proj_qkv", "conv1d"):
        at = at.squeeze(1) if module == "conv1d" else at
        yield parameter, np.concatenate([at[:before], tiled(at[before:], length)])
    elif module == "in_proj_z":
        yield parameter, tiled(at, length)
    elif module == "out_proj":
        yield parameter, np.ascontiguousarray(tiled(at.T, length).T)
    elif module in ("A_log", "in_proj_b", "in_proj_a"):
        yield parameter, tiled(at)
    elif module == "dt_bias":
        yield f"blk.{block}.ssm_dt.bias", tiled(at)
    elif module == "in_proj_qkvz" and "joined" in name:
        yield f"blk.{block}.ssm_in.weight", at
    elif module == "in_proj_qkvz":
        groups = at.reshape(keys, -1, at.shape[1])
        cuts = np.cumsum([config.linear_key_head_dim] * 2 + [values // keys * length])
        q, k, v, z = (part.reshape(-1, at.shape[1]) for part in np.split(groups, cuts, axis=1))
        yield f"blk.{block}.attn_qkv.weight", np.concatenate([q, k, v])
        yield f"blk.{block}.attn_gate.weight", z
    else:
        yield parameter, at
