"""Small random models of many types, written as GGUF files the way llama.cpp's converter does, in mixed types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import gguf_encoders
import numpy as np
import torch
import transformers
from lm_gguf_experts import FILES as MIXTURES
from lm_gguf_families import FILES as FAMILIES
from lm_models import LLAMA3, SHAPE, adjacent, halves_apart, rope, rope_factors, write_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WINDOW = {"sliding_window": 8}
HALF = {"partial_rotary_factor": 0.5}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * at for at in range(16)],
    "long_factor": [2.0 + 0.3 * at for at in range(16)],
    "original_max_position_embeddings": 16,
    "attention_factor": 1.25,
}
MINISTRAL = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
MINISTRAL_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_log_multiplier": 1.0,
    "attention.temperature_scale": 0.1,
}
GRANITE = {"attention_multiplier": 0.1, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 3.0}
GRANITE_KEYS = {"attention.scale": 0.1, "embedding_scale": 2.0, "residual_scale": 0.5, "logit_scale": 3.0}
SOFTCAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
TIED = {"tie_word_embeddings": True}
NEAR = {"attention.sliding_window": 8}

# By name: transformers' model type, what its config has besides SHAPE, the file's architecture and further keys.
FILES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "gemma": ("gemma", {**TIED, "head_dim": 32}, "gemma", {}),
    "gemma2": (
        "gemma2",
        {**TIED, **WINDOW, **SOFTCAPS, "head_dim": 32, "query_pre_attn_scalar": 32},
        "gemma2",
        {**NEAR, **SOFTCAPS},
    ),
    "phi3": ("phi3", {**WINDOW, **rope(1e4)}, "phi3", {**NEAR, "rope.scaling.original_context_length": 512}),
    "phi3, longrope": (
        "phi3",
        {"original_max_position_embeddings": 16, **rope(1e4, **LONG)},
        "phi3",
        {"attention.sliding_window": 0, "rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": 1.25},
    ),
    "phi4-mini": (
        "phi3",
        {**TIED, "sliding_window": None, **rope(1e4, **HALF)},
        "phi3",
        {"attention.sliding_window": 0, "rope.dimension_count": 16},
    ),
    "mistral-small": ("mistral", {"sliding_window": None, "head_dim": 64, **rope(1e6)}, "mistral3", {}),
    "ministral3": ("ministral3", {"head_dim": 64, **rope(1e6, **MINISTRAL)}, "mistral3", MINISTRAL_KEYS),
    "glm4": (
        "glm4",
        {"head_dim": 32, "attention_bias": True, **rope(1e4, **HALF)},
        "glm4",
        {"rope.dimension_count": 16},
    ),
    "granite": ("granite", {**TIED, **GRANITE, **rope(1e6)}, "granite", GRANITE_KEYS),
    "olmo2": ("olmo2", rope(5e5), "olmo2", {}),
    "olmo3": (
        "olmo3",
        {**WINDOW, **rope(5e5)},
        "olmo2",
        {**NEAR, "attention.sliding_window_pattern": [True, True, True, False]},
    ),
    "smollm3": ("smollm3", {**TIED, **rope(5e6)}, "smollm3", {}),
    "stablelm": ("stablelm", {"use_qkv_bias": True, **rope(1e4, **HALF)}, "stablelm", {"rope.dimension_count": 16}),
    "stablelm2-12b": (
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True, **rope(1e4, partial_rotary_factor=0.25)},
        "stablelm",
        {"rope.dimension_count": 8},
    ),
    "command-r": (
        "cohere",
        {**TIED, "logit_scale": 0.25, "use_qk_norm": True, **rope(8e6)},
        "command-r",
        {"logit_scale": 0.25},
    ),
    "cohere2": ("cohere2", {**TIED, **WINDOW, "logit_scale": 0.25}, "cohere2", {**NEAR, "logit_scale": 0.25}),
    "starcoder2": ("starcoder2", {**TIED, "sliding_window": None, **rope(1e5)}, "starcoder2", {}),
    # Text models of others that see pictures.
    "qwen2vl": ("qwen2", rope(1e6), "qwen2vl", {"rope.dimension_sections": [4, 6, 6, 0]}),
    "qwen3vl": ("qwen3", rope(5e6), "qwen3vl", {"rope.dimension_sections": [6, 5, 5, 0], "n_deepstack_layers": 3}),
    # Keys of the hybrid models of this name.
    "granite, dense": (
        "granite",
        {"attention_multiplier": 0.2, **rope(1e4)},
        "granite",
        {
            "attention.scale": 0.2,
            "ssm.conv_kernel": 4,
            "ssm.group_count": 1,
            "ssm.inner_size": 4096,
            "ssm.state_size": 256,
            "ssm.time_step_rank": 128,
        },
    ),
    "exaone4": (
        "exaone4",
        {**WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "rope_parameters": LLAMA3},
        "exaone4",
        {**NEAR, "attention.sliding_window_pattern": [True, True, True, False]},
    ),
    "exaone4, small": (
        "exaone4",
        {**TIED, "sliding_window": None, "layer_types": ["full_attention"] * 4, **rope(1e6)},
        "exaone4",
        {},
    ),
    "lfm2": (
        "lfm2",
        {
            **TIED,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            **rope(1e6),
        },
        "lfm2",
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 0, 2]},
    ),
}
# Those of `lm_models`, `test_gguf_variants` and `test_gguf_experts`.
OTHERS = [
    *((kind, {}, kind, {}) for kind in ("llama", "qwen2", "qwen3")),
    ("mistral", {}, "llama", {}),
    ("gemma3_text", {}, "gemma3", {}),
    ("internlm2", {}, "internlm2", {}),
    *((kind, {}, architecture, {}) for kind, architecture, _ in MIXTURES.values()),
]
PERMUTED = {"llama", "mistral3", "granite", "smollm3", "internlm2"}
OFFSET = {"gemma", "gemma2", "gemma3"}
TYPES = ("Q8_0", "Q4_0", "Q6_K", "Q5_1", "IQ4_NL", "F16", "Q4_1")
ENCODERS = {"Q6_K": gguf_encoders.q6_k, "IQ4_NL": gguf_encoders.iq4_nl}


def transformers_model(name: str) -> Any:
    """The model in float32, its norms and biases random too."""
    kind, extra, _, _ = FILES[name]
    torch.manual_seed(len(name))
    shape = {**SHAPE, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    known = CONFIG_MAPPING[kind]().to_dict()
    shape = {key: value for key, value in shape.items() if key in known}
    config = CONFIG_MAPPING[kind](**{**shape, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(0.3)
    return model


def write_gguf(path: Path, name: str, model: Any) -> None:
    """Writes the model, and gives it the weights that the file's matrices then have."""
    _, _, architecture, extra = FILES[name]
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    base = config.rope_parameters
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(base["rope_theta"]),
        **_epsilon(config),
        **extra,
    }
    factors = [("rope_freqs.weight", rope_factors(head_dim), None)] if base["rope_type"] == "llama3" else []
    for kind in ("short", "long") if base["rope_type"] == "longrope" else ():
        factors.append((f"rope_factors_{kind}.weight", np.array(base[f"{kind}_factor"], np.float32), None))
    write_file(path, architecture, numbers, [*factors, *encoded(architecture, model)])


def _epsilon(config: Any) -> dict[str, float]:
    root = getattr(config, "rms_norm_eps", None) or getattr(config, "norm_eps", None)
    if root:
        return {"attention.layer_norm_rms_epsilon": root}
    return {"attention.layer_norm_epsilon": getattr(config, "norm_epsilon", None) or config.layer_norm_eps}


def encoded(architecture: str, model: Any):
    """Tensors by the file's names, packed; the model gets them unpacked."""
    known = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(known, model.config.num_hidden_layers)
    norms: dict[str, list[np.ndarray]] = {}
    for number, (parameter, tensor) in enumerate(model.named_parameters()):
        values = tensor.detach().numpy()
        values = values[:, 0] if values.ndim == 3 else values  # a filter a channel
        if row := re.search(r"\.norms\.\d+", parameter):  # a norm a head, which the converter stacks
            norms.setdefault(parameter.replace(row[0], ""), []).append(values)
            continue
        heads = model.config.num_attention_heads if "q_proj" in parameter else model.config.num_key_value_heads
        permuted = architecture in PERMUTED and ("q_proj" in parameter or "k_proj" in parameter)
        offset = np.float32(architecture in OFFSET and parameter.endswith("norm.weight"))
        stored = (adjacent(values, heads) if permuted else values) + offset
        matrix = values.ndim == 2 and values.shape[1] % 256 == 0
        kind = TYPES[number % len(TYPES)] if matrix else "F32"
        raw = gguf.GGMLQuantizationType[kind]
        data = ENCODERS[kind](stored) if kind in ENCODERS else gguf.quants.quantize(stored, raw)
        exact = gguf.quants.dequantize(data, raw).reshape(stored.shape) - offset
        with torch.no_grad():
            read = halves_apart(exact, heads) if permuted else exact
            tensor.copy_(torch.from_numpy(read).reshape(tensor.shape))
        yield names.get_name(parameter, (".weight", ".bias")), data, raw
    for parameter, rows in norms.items():
        yield names.get_name(parameter, (".weight",)), np.stack(rows), gguf.GGMLQuantizationType.F32


def table() -> list[str]:
    """The rows of the documentation's table: an architecture, and the model types that tests compare."""
    types: dict[str, list[str]] = {}
    for kind, _, architecture, _ in [*FILES.values(), *FAMILIES.values(), *OTHERS]:
        if kind not in types.setdefault(architecture, []):
            types[architecture].append(kind)
    return [f"| {name} | {', '.join(types[name])} |" for name in sorted(types)]
