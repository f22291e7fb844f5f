"""Models whose parameters llama.cpp's converter joins, splits, reorders or scales; `lm_gguf_parts` writes them."""

from __future__ import annotations

from typing import Any

from lm_models import SHAPE, rope

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
