"""Mixtures of experts of some size, and no more in memory than one matrix of each shape while they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from lm_experts import MIXTURES
from lm_folders import FOLDERS, quantized
from lm_models import SHAPE, write_file
from support import group_settings

# 80 experts of 2.5 MB.
WIDTH, ROWS, EXPERTS = 2048, 768, 80
SIZES = {"hidden_size": WIDTH, "moe_intermediate_size": ROWS, "num_experts": EXPERTS, "num_hidden_layers": 1}
CONFIG: dict[str, Any] = {"model_type": "qwen3_moe", **SHAPE, **MIXTURES["qwen3_moe"][1], **SIZES}
LAYER = "model.layers.0"
ATTENTION = {"q_proj": (128, WIDTH), "k_proj": (64, WIDTH), "v_proj": (64, WIDTH), "o_proj": (WIDTH, 128)}
EXPERT = {"gate_proj": (ROWS, WIDTH), "up_proj": (ROWS, WIDTH), "down_proj": (WIDTH, ROWS)}
DENSE = {
    "model.embed_tokens.weight": (SHAPE["vocab_size"], WIDTH),
    "lm_head.weight": (SHAPE["vocab_size"], WIDTH),
    "model.norm.weight": (WIDTH,),
    f"{LAYER}.input_layernorm.weight": (WIDTH,),
    f"{LAYER}.post_attention_layernorm.weight": (WIDTH,),
    f"{LAYER}.self_attn.q_norm.weight": (32,),
    f"{LAYER}.self_attn.k_norm.weight": (32,),
    f"{LAYER}.mlp.gate.weight": (EXPERTS, WIDTH),
}


def write_large_folder(path: Path, form: str) -> None:
    """A folder of one of `FOLDERS`, into a folder that is there. Its experts are equal."""
    settings, rng = group_settings(FOLDERS[form]), np.random.default_rng(0)
    (path / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
    tensors = {name: rng.normal(size=shape).astype(np.float16) for name, shape in DENSE.items()}

    def put(module: str, arrays: dict[str, np.ndarray]) -> None:
        tensors.update({f"{LAYER}.{module}.{key}": array for key, array in arrays.items()})

    for name, shape in ATTENTION.items():
        put(f"self_attn.{name}", quantized(rng.normal(size=shape), settings, rng)[0])
    for name, shape in EXPERT.items():
        arrays = quantized(rng.normal(size=shape), settings, rng)[0]
        for number in range(EXPERTS):
            put(f"mlp.experts.{number}.{name}", arrays)
    mx.save_safetensors(str(path / "model.safetensors"), {name: mx.array(each) for name, each in tensors.items()})


def write_large_gguf(path: Path, joined: bool) -> None:
    """A GGUF file of the same; `joined` says whether gates and ups are one tensor."""
    kind, rng = gguf.GGMLQuantizationType.Q4_0, np.random.default_rng(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 1)

    def packed(*shape: int) -> np.ndarray:
        return gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), kind)

    tensors: list[tuple[str | None, np.ndarray, Any]] = [
        (names.get_name(name, (".weight",)), rng.normal(size=shape).astype(np.float32), None)
        for name, shape in DENSE.items()
    ]
    tensors += [
        (names.get_name(f"{LAYER}.self_attn.{name}.weight", (".weight",)), packed(*shape), kind)
        for name, shape in ATTENTION.items()
    ]
    stacks = {"gate_up": (2 * ROWS, WIDTH), "down": (WIDTH, ROWS)}
    if not joined:
        stacks = {name.removesuffix("_proj"): shape for name, shape in EXPERT.items()}
    for name, shape in stacks.items():
        tensors.append((f"blk.0.ffn_{name}_exps.weight", np.tile(packed(*shape), (EXPERTS, 1, 1)), kind))
    numbers = {
        "block_count": 1,
        "context_length": 512,
        "embedding_length": WIDTH,
        "feed_forward_length": ROWS,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 32,
        "rope.freq_base": 1e6,
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_feed_forward_length": ROWS,
    }
    write_file(path, "qwen3moe", numbers, tensors)
