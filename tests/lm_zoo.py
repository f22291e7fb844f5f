"""Tiny random models of many types, quantized by formula, with config.json as transformers 4 or 5 writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import transformers
from lm_folders import quantized
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from mlx_dequant.lm import folder
from mlx_dequant.lm.build import build
from mlx_dequant.loading import load

VOCABULARY = 288
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
WINDOW = {"sliding_window": 8}
LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e4}}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 3e4,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.3,
    }
}
MSCALE = {"rope_parameters": {**YARN["rope_parameters"], "mscale": 0.707, "mscale_all_dim": 0.707}}
del MSCALE["rope_parameters"]["attention_factor"]
LONG = {
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0 + 0.1 * at for at in range(16)],
        "long_factor": [2.0 + 0.3 * at for at in range(16)],
        "original_max_position_embeddings": 16,
    },
}
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
GRANITE = {"attention_multiplier": 0.1, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 3.0}
# Scores are not divided by sqrt(head_dim) unless told. With larger weights any float32 rounding changes the choices.
CALM = {"initializer_range": 0.08}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}

# By name: the model type, and what its config has besides SHAPE.
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, **LINEAR}),
    "llama yarn": ("llama", YARN),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {**WINDOW, "head_dim": 64}),
    "mixtral": ("mixtral", {**WINDOW, **EXPERTS, **LINEAR}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, **WINDOW, "tie_word_embeddings": False}),
    "qwen2_moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64, **LINEAR}),
    "qwen3": ("qwen3", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW, "head_dim": 64}),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, **YARN, "head_dim": 32}),
    "gemma": ("gemma", {"head_dim": 32, **LINEAR}),
    "gemma, released": ("gemma", {"head_dim": 32}),
    "gemma2": ("gemma2", {**WINDOW, "head_dim": 32, "query_pre_attn_scalar": 24}),
    "gemma3_text": ("gemma3_text", {**WINDOW, "head_dim": 32, "num_hidden_layers": 7, "hidden_size": 160}),
    "phi": ("phi", {"num_key_value_heads": 4, **HALF}),
    "phi3": ("phi3", {**WINDOW, **HALF}),
    "phi3 longrope": ("phi3", LONG),
    "starcoder2": ("starcoder2", {**WINDOW, **LINEAR}),
    "stablelm": ("stablelm", HALF),
    "cohere": ("cohere", {"logit_scale": 0.25, **LINEAR}),
    "cohere2": ("cohere2", {**WINDOW, "head_dim": 32}),
    "olmo2": ("olmo2", LINEAR),
    "olmo3": ("olmo3", WINDOW),
    "olmoe": ("olmoe", EXPERTS),
    "granite": ("granite", GRANITE),
    "granite plain": ("granite", CALM),
    "granitemoe": ("granitemoe", {**EXPERTS, **GRANITE}),
    "granitemoe plain": ("granitemoe", {**EXPERTS, **CALM}),
    "glm": ("glm", {"head_dim": 32, **HALF}),
    "glm4": ("glm4", {"head_dim": 32, **HALF}),
    "gpt2": ("gpt2", GPT),
    "gpt_bigcode": ("gpt_bigcode", GPT),
    "gpt_neox": ("gpt_neox", {"intermediate_size": 512, **HALF}),
    "gptj": ("gptj", {**GPT, "rotary_dim": 16}),
    "gpt_oss": ("gpt_oss", {**EXPERTS, **WINDOW, "head_dim": 32, **YARN}),
    "deepseek_v2": ("deepseek_v2", {**EXPERTS, **LATENT, "topk_method": "greedy", **MSCALE}),
    "deepseek_v2 plain": ("deepseek_v2", {**EXPERTS, **LATENT, "topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", {**EXPERTS, **LATENT}),
    "deepseek_v3 yarn": ("deepseek_v3", {**EXPERTS, **LATENT, **MSCALE}),
    "dots1": ("dots1", {**EXPERTS, **LATENT, "num_key_value_heads": 2, "head_dim": 32, "sliding_window": None}),
    "ernie4_5": ("ernie4_5", {"head_dim": 32}),
    "exaone4": ("exaone4", {**WINDOW}),
    "helium": ("helium", {"head_dim": 32, "num_key_value_heads": 4}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"head_dim": 32}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}),
    "seed_oss": ("seed_oss", {"head_dim": 32, "attention_out_bias": True}),
    "nemotron": ("nemotron", {"head_dim": 32}),
    "apertus": ("apertus", {}),
    "ministral3": ("ministral3", {"head_dim": 32}),
    "ministral3 window": ("ministral3", {"head_dim": 32, **WINDOW}),
    "lfm2_moe": ("lfm2_moe", {**EXPERTS, "layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1}),
    "glm4_moe": ("glm4_moe", {**EXPERTS, **LATENT, "num_key_value_heads": 2, "head_dim": 32, **HALF}),
    "qwen3_next": (
        "qwen3_next",
        {
            **EXPERTS,
            **CALM,
            "head_dim": 32,
            "shared_expert_intermediate_size": 64,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
        },
    ),
    "lfm2": (
        "lfm2",
        {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
}

SETTINGS = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "sym": True,
    "desc_act": False,
    "true_sequential": True,
}

# What a publisher's file says and transformers corrects.
RELEASED: dict[str, dict[str, Any]] = {"gemma, released": {"hidden_act": "gelu", "hidden_activation": None}}


def configured(name: str) -> Any:
    """transformers' config of a tiny model."""
    kind, extra = ZOO[name]
    known = CONFIG_MAPPING[kind]().to_dict()
    shape = {key: value for key, value in SHAPE.items() if key in known}
    given = {key: value for key, value in extra.items() if key in known or key not in {**EXPERTS, **LATENT}}
    return CONFIG_MAPPING[kind](**{**shape, **given})


def made(name: str) -> Any:
    """transformers' model in float32, its linear layers in the blocks rounded to 4 bits, norms and biases random."""
    torch.manual_seed(len(name))
    config = configured(name)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(parameter.half().float())
    return model


def write(path: Path, name: str, version: int) -> Any:
    """Writes the model as a GPTQ folder, and gives transformers' model of the same weights."""
    model = made(name)
    packed: dict[bytes, dict[str, np.ndarray]] = {}
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for module_name, module in model.named_modules():
            inside = module_name.count(".") > 2 and "router" not in module_name and not module_name.endswith("gate")
            if inside and isinstance(module, (torch.nn.Linear, Conv1D)):
                turned = isinstance(module, Conv1D)
                weight = module.weight.T if turned else module.weight
                tensors, exact = quantized(weight.numpy(), SETTINGS, rng)
                exact = np.ascontiguousarray(exact.T) if turned else exact
                module.weight.copy_(torch.from_numpy(exact))
                packed[exact.tobytes()] = tensors
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    stored: dict[str, mx.array] = {}
    for file in path.glob("*.safetensors"):
        for key, array in mx.load(str(file)).items():
            layer = packed.get(np.array(array).tobytes()) if array.ndim == 2 else None
            if layer is None:
                stored[key] = array
            else:
                stored |= {f"{key.removesuffix('.weight')}.{part}": mx.array(data) for part, data in layer.items()}
    mx.save_safetensors(str(path / "model.safetensors"), stored)
    config = (as_4(config) if version == 4 else config) | RELEASED.get(name, {})
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": SETTINGS}))
    return model


def as_4(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers 4 wrote it: rotary settings at the top, `torch_dtype`."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    kind = config["model_type"]
    if rope and "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        if kind == "gemma3_text":
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif rope:
        names = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
        if kind == "gpt_neox":
            names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
        config |= {names[key]: rope.pop(key) for key in list(rope) if key in names}
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if kind in ("gemma3_text", "cohere2"):
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern", 6 if kind == "gemma3_text" else 4)
        config.pop("layer_types", None)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config | {"transformers_version": "4.57.0"}


def opened(path: Path) -> Any:
    """The model of a folder without its tokenizer, in float32."""
    checkpoint = load(path)
    config = folder.config(path)
    folder.untie(config, checkpoint)
    model = folder.empty_model(config)
    build(model, folder.weights(checkpoint, model), mx.float32)
    return model
