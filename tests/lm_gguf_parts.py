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
from lm_gguf_families import FILES, SHAPES
from lm_models import adjacent, write_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Array = np.ndarray
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


def write_family(path: Path, name: str, model: Any, **keys: Any) -> None:
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
        **{
            key: config.get(value, value) if isinstance(value, str) else value
            for key, value in {**extra, **keys}.items()
        },
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
        # The former's blocks of 256 inputs hold parts of two heads.
        return gguf.GGMLQuantizationType["Q6_K" if ".layers.0." in name else "Q8_0"]
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
