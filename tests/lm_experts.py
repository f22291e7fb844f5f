"""Small mixtures of experts with random weights: transformers' own, and their weights under the names of folders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from lm_models import SHAPE, rope

EXPERTS = {"num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 64}
DEEP = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5}
# By mlx-lm's name: transformers' class, what its config has besides SHAPE, and the module and names of experts.
SWIGLU = ("gate_proj", "up_proj", "down_proj")
MIXTURES: dict[str, tuple[str, dict[str, Any], str, tuple[str, str, str]]] = {
    "mixtral": (
        "Mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None, **rope(1e4)},
        "block_sparse_moe",
        ("w1", "w3", "w2"),
    ),
    "qwen2_moe": (
        "Qwen2Moe",
        {"num_experts": 8, "shared_expert_intermediate_size": 64, **EXPERTS, "norm_topk_prob": False, **rope(1e6)},
        "mlp",
        SWIGLU,
    ),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 8, "head_dim": 32, **EXPERTS, **rope(1e6)}, "mlp", SWIGLU),
    "glm4_moe": (
        "Glm4Moe",
        {"head_dim": 32, "use_qk_norm": True, "n_group": 1, "topk_group": 1, **DEEP, **EXPERTS}
        | rope(1e4, partial_rotary_factor=0.5),
        "mlp",
        SWIGLU,
    ),
    "gpt_oss": (
        "GptOss",
        {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 8}
        | rope(15e4, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        "mlp",
        SWIGLU,
    ),
    "deepseek_v3": (
        "DeepseekV3",
        {"num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "kv_lora_rank": 64, "q_lora_rank": 64}
        | {"qk_rope_head_dim": 16, "v_head_dim": 32, "qk_nope_head_dim": 32, **DEEP, **EXPERTS, **rope(1e4)},
        "mlp",
        SWIGLU,
    ),
}


def mixture(name: str, **changes: Any) -> Any:
    """transformers' model in float32, its norms, biases and routers random too."""
    kind, extra, _, _ = MIXTURES[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **extra, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.ndim == 1:
                tensor.add_(0.3 * torch.randn_like(tensor))
            if key.endswith("mlp.gate.weight"):
                # Logits of some units, as trained routers have. With logits of 20, and two experts close to each other,
                # the last bits of a token's input move its result by 1e-4: in float64 as well.
                tensor.normal_(std=0.3)
            if key.endswith("correction_bias"):
                tensor.abs_()  # mlx-lm takes the scores of a group that is left out for 0
    return model


def as_folder(name: str, state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The weights with a matrix for each expert, as folders have them."""
    _, _, module, (gate, up, down) = MIXTURES[name]
    found: dict[str, np.ndarray] = {}
    for key, tensor in state.items():
        values = tensor.numpy()
        block, _, part = key.partition(".mlp.experts.")
        if not part:
            found[key.replace(".mlp.gate.", f".{module}.gate.")] = values
            continue
        names = (gate, up) if part == "gate_up_proj" else (down,)
        for number, matrices in enumerate(values):
            for way, matrix in zip(names, np.split(matrices, len(names)), strict=True):
                found[f"{block}.{module}.experts.{number}.{way}.weight"] = matrix
    return found


def as_state(name: str, weights: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, undone: weights by the names and in the shapes of transformers."""
    _, _, module, (gate, up, down) = MIXTURES[name]
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        block, _, part = key.partition(".mlp.experts.")
        if not part:
            found[key] = torch.from_numpy(weights[key.replace(".mlp.gate.", f".{module}.gate.")])
            continue
        names = (gate, up) if part == "gate_up_proj" else (down,)
        prefix = f"{block}.{module}.experts"
        each = [[weights[f"{prefix}.{number}.{way}.weight"] for way in names] for number in range(len(tensor))]
        found[key] = torch.from_numpy(np.stack([np.concatenate(parts) for parts in each]))
    return found
