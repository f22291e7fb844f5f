"""What mlx-lm's models do with each key of config.json, a row a model type.

Read from mlx-lm 0.32.2's models beside transformers 5.24's, which say what a key means.
`tests/lm/test_settings_table.py` finds the keys that transformers' model uses and that no row accounts for.

A key is known if mlx-lm's model has it (its `ModelArgs`), if it stands below, or if transformers has another name for
such a key. Any other key is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Keys that change no logits: tokens, training, outputs besides logits, how the file was made, generation's settings.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _experts_implementation attn_implementation architectures auto_map model_type torch_dtype dtype
    transformers_version transformers.js_config unsloth_version unsloth_fixed quantization_config compression_config
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id eod_token_id
    decoder_start_token_id im_end_id im_start_id pad_id image_token_id image_token_index video_token_id
    audio_token_id vision_start_token_id vision_end_token_id vision_token_id boi_token_index eoi_token_index
    boi_token_id eoi_token_id boa_token_id eoa_token_id audio_soft_tokens_per_image vision_soft_tokens_per_image
    num_logits_to_keep text_config vision_config audio_config mm_tokens_per_image projector_hidden_act
    vision_feature_layer vision_feature_select_strategy multimodal_projector_bias spatial_merge_size
    initializer_range initializer_factor initializer_cutoff_factor use_cache pretraining_tp gradient_checkpointing
    attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop classifier_dropout residual_dropout
    embedding_dropout attn_dropout emb_dropout dropout resid_dropout embd_dropout
    output_router_logits router_aux_loss_coef router_jitter_noise input_jitter_noise aux_loss_alpha seq_aux ep_size
    moe_aux_loss_coeff num_nextn_predict_layers
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate torchscript
    use_return_dict use_bfloat16 tf_legacy_loss pruned_heads chunk_size_feed_forward tie_encoder_decoder
    id2label label2id num_labels problem_type task_specific_params finetuning_task prefix tokenizer_class
    name_or_path model_max_length max_sequence_length is_llama_config logits_to_keep num_logits_to_keep
    _attn_implementation_internal dual_chunk_attention_config
    cache_implementation use_flash_attn use_flash_attention flash_attn use_cuda_graph is_decoder
    max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    cross_attention_hidden_size summary_type summary_use_proj summary_activation summary_proj_to_labels
    summary_first_dropout
    max_position_embeddings original_max_position_embeddings
    rope_theta rope_scaling rope_parameters rope_local_base_freq partial_rotary_factor rotary_pct rotary_emb_base
    sliding_window use_sliding_window max_window_layers layer_types sliding_window_pattern _sliding_window_pattern
    """.split()  # noqa: SIM905
)
# What the last three lines name, `rotary` and `variants` consume or refuse.

# mlx-lm's names for keys of transformers.
ALIASES = {
    "num_experts": "num_local_experts",
    "n_ctx": "n_positions",
    "block_dim": "hidden_size",
}

# Text models inside of models of pictures and text: the row, and mlx-lm's model.
TEXTS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}

# Text models that mlx-lm has only inside of its model of pictures and text, whose module has their settings.
NESTED = {
    "qwen3_5_text": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "gemma3n_text": "gemma3n",
}

# mlx-lm's names of layers where transformers has others.
LAYER_TYPES = {"granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"}}

TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
SILU = ("silu", "swish")
GELUS = ("gelu", *TANH)
OFF = (False,)
ON = (True,)

# What mlx-lm's models compute with if they do not have the key.
USUAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": SILU,
    "attention_bias": OFF,
    "mlp_bias": OFF,
    "lm_head_bias": OFF,
    "is_encoder_decoder": OFF,
    "add_cross_attention": OFF,
    "use_bidirectional_attention": OFF,
    "rope_interleaved": OFF,
    "use_mrope": OFF,
}


class Row(NamedTuple):
    """A model type.

    Attributes:
        fixed: by the names of keys that mlx-lm's model ignores: the values that it computes with.
        harmless: more keys that change no logits.
        sets: what mlx-lm's model asks for and transformers' config does not have.
        rope: whether we give the model another RoPE where mlx-lm's lacks a scaling or turns other dimensions.
        scalings: the only kinds of RoPE scaling that mlx-lm's model computes; empty where `rotary` knows.
        windows: whether we let layers see windows, which mlx-lm's model does not.
        partial: whether transformers' model turns only a part of each head where `partial_rotary_factor` says so.
        needs: keys whose null mlx-lm's model does not take, though transformers' does.
        activation: the key by which we choose the function in feed-forward layers, where mlx-lm's has another.
    """

    fixed: Mapping[str, tuple[Any, ...]] = {}
    harmless: tuple[str, ...] = ()
    sets: Mapping[str, Any] = {}
    rope: bool = False
    scalings: tuple[str, ...] = ()
    windows: bool = False
    partial: bool = False
    needs: tuple[str, ...] = ()
    activation: str | None = None


TIED = {"tie_word_embeddings": ON}
UNTIED = {"tie_word_embeddings": OFF}

# `variants` reads the first one.
GATED: Mapping[str, tuple[Any, ...]] = {
    "attn_output_gate": ON,
    "output_gate_type": ("swish",),
    "mlp_only_layers": ([],),
}
DELTA = ("linear_value_heads_tiled", "mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")

ROWS: Mapping[str, Row] = {
    "apertus": Row(
        {"hidden_act": ("xielu",), "attention_bias": OFF}, sets={"mlp_bias": False, "post_norm": False, "qk_norm": True}
    ),
    "bitnet": Row({"hidden_act": ("relu2",)}),
    "cohere": Row({**TIED}, rope=True),
    "cohere2": Row(
        {
            **TIED,
            "layer_switch": (4,),
            "use_embedding_sharing": ON,
            "use_gated_activation": ON,
            "use_parallel_block": ON,
        },
        harmless=("rotary_pct", "order_of_interleaved_layers", "position_embedding_type", "use_parallel_embedding"),
    ),
    "deepseek_v2": Row(
        {**UNTIED, "norm_topk_prob": OFF, "scoring_func": ("softmax",)},
        harmless=("head_dim", "qk_head_dim", "num_key_value_heads"),
        sets={"moe_layer_freq": 1},
        scalings=("yarn",),
    ),
    "deepseek_v3": Row(
        {**UNTIED, "rope_interleave": ON, "scoring_func": ("sigmoid",)},
        harmless=("head_dim", "qk_head_dim", "num_key_value_heads"),
        sets={"moe_layer_freq": 1},
    ),
    "dots1": Row({"attention_bias": OFF}, harmless=("scoring_func",)),
    "ernie4_5": Row(),
    "exaone4": Row(),
    "falcon_h1": Row({"time_step_limit": ([0.0, float("inf")], (0.0, float("inf")))}, harmless=("mamba_expand",)),
    "gemma": Row({**TIED}, harmless=("hidden_act", "hidden_activation"), rope=True, activation="hidden_act"),
    "gemma2": Row(
        {**TIED, "hidden_activation": TANH, "sliding_window_size": (4096,)},
        harmless=("hidden_act",),
        rope=True,
        windows=True,
        needs=("attn_logit_softcapping", "final_logit_softcapping"),
    ),
    "gemma3_text": Row(
        {"hidden_activation": TANH, "attn_logit_softcapping": (), "final_logit_softcapping": ()},
        harmless=("tie_word_embeddings", "hidden_act"),
    ),
    "gemma3n_text": Row({**TIED, "hidden_activation": TANH}),
    "gemma4_text": Row({"hidden_activation": TANH}, harmless=("per_layer_config",)),
    "glm": Row({}, rope=True, partial=True),
    "glm4": Row({**UNTIED}, rope=True, partial=True),
    "glm4_moe": Row({**UNTIED}),
    "gpt2": Row(
        {
            **TIED,
            "activation_function": TANH,
            "n_inner": (),
            "scale_attn_weights": ON,
            "scale_attn_by_inverse_layer_idx": OFF,
        },
        harmless=("reorder_and_upcast_attn",),
    ),
    "gpt_bigcode": Row(
        {"scale_attn_weights": ON, "multi_query": ON},
        harmless=(
            "activation_function",
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
            "inference_runner",
            "validate_runner_input",
            "pre_allocate_kv_cache",
            "max_batch_size",
            "max_sequence_length",
        ),
        activation="activation_function",
    ),
    "gpt_neox": Row(
        {**UNTIED, "attention_bias": ON},
        harmless=("hidden_act", "intermediate_size"),
        activation="hidden_act",
    ),
    "gptj": Row({**UNTIED, "activation_function": TANH, "n_inner": ()}),
    "gpt_oss": Row(
        {**UNTIED, "attention_bias": ON, "swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
        harmless=("experts_per_token", "initial_context_length", "hidden_act"),
        rope=True,
    ),
    "granite": Row(),
    "granitemoe": Row(),
    "granitemoehybrid": Row(
        {"normalization_function": ("rmsnorm",)}, harmless=("mamba_chunk_size", "mamba_expand", "init_method")
    ),
    "helium": Row(harmless=("head_dim",), rope=True),
    "hunyuan_v1_dense": Row(
        {"use_cla": OFF, "norm_type": ("rms",)},
        harmless=(
            *("add_classification_head", "attention_head_dim", "cla_share_factor", "class_num", "dense_list"),
            *("im_newline_id", "mask_init_id", "org_vocab_size", "pool_type"),
        ),
    ),
    # transformers' config class consumes tie_embedding.
    "lfm2": Row(
        {**TIED, "block_use_swiglu": ON},
        harmless=(
            *("full_attn_idxs", "use_pos_enc", "conv_use_xavier_init", "conv_dim", "conv_dim_out", "tie_embedding"),
            *("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "block_norm_eps", "num_heads"),
            *("model_name", "theta"),
        ),
    ),
    "llama": Row(rope=True),
    "minimax_m2": Row(
        {"qk_norm_type": ("per_layer",), "use_routing_bias": ON},
        harmless=("attn_type_list", "mtp_transformer_layers", "num_mtp_modules", "use_mtp"),
    ),
    "ministral3": Row(),
    "mistral": Row(rope=True),
    "mixtral": Row(rope=True, windows=True),
    "nemotron": Row({"hidden_act": ("relu2",)}),
    "olmo2": Row(),
    "olmo3": Row(),
    "olmoe": Row({"clip_qkv": ()}),
    "phi": Row({**UNTIED, "hidden_act": TANH, "qk_layernorm": OFF}, rope=True, partial=True),
    "phi3": Row({"full_attn_mod": (1,), "interpolate_factor": (1,)}, rope=True, windows=True, partial=True),
    "qwen2": Row(windows=True, rope=True),
    "qwen2_moe": Row(
        {**UNTIED, "decoder_sparse_step": (1,), "mlp_only_layers": ([],), "norm_topk_prob": OFF, "qkv_bias": ON},
        harmless=("intermediate_size",),
        rope=True,
        windows=True,
    ),
    "qwen3": Row(windows=True, rope=True),
    "qwen3_moe": Row(rope=True, windows=True),
    "qwen3_5_moe_text": Row(GATED, harmless=DELTA),
    "qwen3_5_text": Row(GATED, harmless=DELTA),
    "seed_oss": Row(),
    "smollm3": Row(harmless=("no_rope_layer_interval",), rope=False),
    "stablelm": Row({**UNTIED}, rope=True, partial=True),
    "starcoder2": Row(
        {"use_bias": ON, "mlp_type": ("default",), "norm_type": ("layer_norm",), "scale_attn_weights": ON},
        harmless=(
            *("hidden_act", "activation_function", "layer_norm_epsilon"),
            *("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
        ),
        rope=True,
        windows=True,
        activation="hidden_act",
    ),
}
