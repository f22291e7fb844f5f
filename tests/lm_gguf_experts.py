"""GGUF files of small mixtures of experts, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from lm_models import adjacent, halves_apart, write_file

# By name: the mixture, the architecture, and keys by what the model's config says.
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3moe": ("qwen3_moe", "qwen3moe", {"expert_feed_forward_length": "moe_intermediate_size"}),
    "qwen3moe, gates and ups joined": (
        "qwen3_moe",
        "qwen3moe",
        {"expert_feed_forward_length": "moe_intermediate_size"},
    ),
    "qwen2moe": (
        "qwen2_moe",
        "qwen2moe",
        {
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
    ),
    "qwen2moe, without sizes of experts": ("qwen2_moe", "qwen2moe", {}),
    "qwen3vlmoe": (
        "qwen3_moe",
        "qwen3vlmoe",
        {"expert_feed_forward_length": "moe_intermediate_size", "n_deepstack_layers": 3},
    ),
    "mixtral": ("mixtral", "llama", {}),
    "mixtral, a tensor for each expert": ("mixtral", "llama", {}),
    "glm4moe": (
        "glm4_moe",
        "glm4moe",
        {
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_count": "n_shared_experts",
            "leading_dense_block_count": "first_k_dense_replace",
            "expert_weights_scale": "routed_scaling_factor",
            "expert_weights_norm": "norm_topk_prob",
            "expert_gating_func": 2,
            "rope.dimension_count": 16,
            "nextn_predict_layers": 1,
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        "gpt-oss",
        {
            "expert_feed_forward_length": "intermediate_size",
            "attention.sliding_window": "sliding_window",
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
}


def write_mixture(path: Path, name: str, model: Any, **keys: Any) -> None:
    """Writes the model, and gives it the weights that its matrices then have."""
    _, architecture, extra = FILES[name]
    config = model.config.to_dict()
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    numbers = {
        "block_count": config["num_hidden_layers"] + extra.get("nextn_predict_layers", 0),
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "expert_count": next(
            config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(key)
        ),
        "expert_used_count": config["num_experts_per_tok"],
        **{key: config.get(value, value) if isinstance(value, str) else value for key, value in extra.items()},
        **keys,
    }
    tensors = list(encoded(name, model))
    if "nextn_predict_layers" in extra:
        tensors.append((f"blk.{config['num_hidden_layers']}.nextn.enorm.weight", np.ones(4, np.float32), None))
    write_file(path, architecture, numbers, tensors)


def encoded(name: str, model: Any) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Tensors by the file's names, packed; the model gets them unpacked."""
    architecture = FILES[name][1]
    known = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(known, model.config.num_hidden_layers)
    for parameter, tensor in model.state_dict().items():
        heads = model.config.num_attention_heads if "q_proj" in parameter else model.config.num_key_value_heads
        permuted = architecture == "llama" and ("q_proj" in parameter or "k_proj" in parameter)
        for part, view in parts(parameter, tensor, "joined" in name, turned=architecture == "gpt-oss"):
            values = np.ascontiguousarray(view.numpy())
            raw = kind(part, values, architecture)
            data = gguf.quants.quantize(adjacent(values, heads) if permuted else values, raw)
            exact = gguf.quants.dequantize(data, raw).reshape(values.shape)
            view.copy_(torch.from_numpy(halves_apart(exact, heads) if permuted else exact))
            if "each expert" in name and "_exps." in (stack := file_name(part, names)):
                yield from ((stack.replace("_exps.", f".{number}."), each, raw) for number, each in enumerate(data))
            else:
                yield file_name(part, names), data, raw


def kind(name: str, values: np.ndarray, architecture: str) -> Any:
    if values.ndim == 1 or name.endswith("bias") or ".gate.weight" in name or "router" in name:
        return gguf.GGMLQuantizationType.F32
    stack = architecture == "gpt-oss" and values.ndim == 3
    return gguf.GGMLQuantizationType.MXFP4 if stack else gguf.GGMLQuantizationType.Q8_0


def parts(name: str, tensor: torch.Tensor, joined: bool, turned: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file that a parameter becomes, as views of it."""
    block, _, experts = name.partition(".mlp.experts.")
    if not experts:
        yield name, tensor
        return
    ending = "bias" if experts.endswith("bias") else "weight"
    if turned and ending == "weight":
        tensor = tensor.swapaxes(1, 2)
    if experts.startswith("down") or joined:
        yield f"{block}.mlp.experts.{experts.removesuffix('_bias')}.{ending}", tensor
    elif turned:
        yield f"{block}.mlp.experts.gate_proj.{ending}", tensor[:, ::2]
        yield f"{block}.mlp.experts.up_proj.{ending}", tensor[:, 1::2]
    else:
        for way, half in zip(("gate", "up"), tensor.chunk(2, 1), strict=True):
            yield f"{block}.mlp.experts.{way}_proj.{ending}", half


def file_name(name: str, names: Any) -> str:
    if name.endswith("experts.gate_up_proj.weight"):
        return f"blk.{name.split('.')[2]}.ffn_gate_up_exps.weight"
    if name.endswith("sinks"):
        return f"{names.get_name(name)}.weight"
    return names.get_name(name.replace("correction_bias", "correction.bias"), (".weight", ".bias"))
