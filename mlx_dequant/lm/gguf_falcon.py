"""Falcon-H1 of GGUF files: Mamba 2 beside attention. The converter multiplies the model's factors into its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from .build import Weight
from .gguf_joined import Tensors
from .gguf_keys import Keys


def settings(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    if result["tie_word_embeddings"]:
        raise FormatError(
            f"{keys.file}: tensor 'output.weight': not found: without it nothing says the factor of logits"
        )
    heads, inner, groups = keys.need("ssm.time_step_rank"), keys.need("ssm.inner_size"), keys.need("ssm.group_count")
    normed = "blk.0.ssm_norm.weight" in keys.tensors
    if normed and groups > 1:
        raise keys.fail("ssm.group_count", groups, "1 in a model with ssm_norm: mlx-lm norms all groups as one")
    if inner % heads:
        raise keys.fail("ssm.inner_size", inner, f"a multiple of {heads} (the heads)")
    return {
        "mamba_d_ssm": inner,
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": groups,
        "mamba_d_state": keys.need("ssm.state_size"),
        "mamba_d_conv": keys.need("ssm.conv_kernel"),
        "mamba_conv_bias": "blk.0.ssm_conv1d.bias" in keys.tensors,
        "mamba_proj_bias": "blk.0.ssm_in.bias" in keys.tensors,
        "projectors_bias": "blk.0.ssm_out.bias" in keys.tensors,
        "mamba_rms_norm": normed,
        "mamba_norm_before_gate": False,  # llama.cpp's order
    }


def tensor(parameter: str, tensors: Tensors, config: Mapping[str, Any]) -> Weight | None:
    """A parameter of the recurrent part that has another form in the file; None for any other."""
    layer, _, part = parameter.partition(".mamba.")
    names = {"A_log": "ssm_a", "D": "ssm_d", "dt_bias": "ssm_dt.bias", "norm.weight": "ssm_norm.weight"}
    if part not in names:
        return None
    values = tensors(f"blk.{layer.rsplit('.', 1)[1]}.{names[part]}").dequantize(mx.float32).reshape(-1)
    return mx.log(-values) if part == "A_log" else values
