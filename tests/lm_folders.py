"""Quantizes a model's linear layers by rounding, and writes them as the tools do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from support import FIXTURES, group_settings

# By name: the group set whose config the tool wrote.
FOLDERS = {
    "gptq": "gptq_w4_g64_sym_v1_full",
    "gptq act-order": "gptq_w4_g32_actorder_sym_v1_full",
    "gptq asymmetric": "gptq_w4_g64_asym_v1_4l",
    "gptq v2": "gptq_w4_g64_asym_v2_4l",
    "gptq 3 bits": "gptq_w3_g64_asym_v1_4l",
    "awq": "awq_w4_g64_gemm_full",
    "compressed-tensors": "ct_w4a16_g64_sym_4l",
    "compressed-tensors asymmetric": "ct_w4a16_g64_asym_4l",
}


def write_folder(
    path: Path, name: str, config: dict[str, Any], weights: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Writes a quantized model.

    Args:
        config: config.json, but for what `name` adds.
        weights: float32 by their names in transformers; the linear layers in the blocks are quantized.

    Returns:
        The weights as the folder has them, unpacked to float32.
    """
    path.mkdir()
    settings = group_settings(FOLDERS[name])
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    tensors: dict[str, np.ndarray] = {}
    exact: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for parameter, values in weights.items():
        module, _, part = parameter.rpartition(".")
        if module.endswith(("_proj", ".w1", ".w2", ".w3")) and part == "weight":
            packed, exact[parameter] = quantized(values, settings, rng)
            tensors |= {f"{module}.{key}": array for key, array in packed.items()}
        else:
            tensors[parameter] = values.astype(np.float16)
            exact[parameter] = tensors[parameter].astype(np.float32)
    mx.save_safetensors(str(path / "model.safetensors"), {key: mx.array(array) for key, array in tensors.items()})
    return exact


def fixture_config(name: str) -> dict[str, Any]:
    """The config.json of SmolLM2 that the fixtures' tools wrote, with all of its layers, not yet quantized."""
    config = json.loads((FIXTURES / "groups" / FOLDERS[name] / "config.json").read_text())
    del config["quantization_config"]
    return config | {"num_hidden_layers": 30}


def quantized(values: np.ndarray, settings: dict[str, Any], rng: np.random.Generator):
    """The tensors of a linear layer, and its weights [out, in] unpacked."""
    method = settings["quant_method"]
    if method == "compressed-tensors":
        weights = settings["config_groups"]["group_0"]["weights"]
        bits, size, symmetric = weights["num_bits"], weights["group_size"], weights["symmetric"]
    else:
        bits, size, symmetric = settings["bits"], settings["group_size"], settings.get("sym", False)
    inputs = values.shape[1]
    group = np.arange(inputs) // size
    if settings.get("desc_act"):
        group = rng.permutation(group)
    codes, scales, zeros = rounded(values, group, bits, symmetric)
    exact = (codes - zeros[:, group]).astype(np.float32) * scales[:, group].astype(np.float32)
    if method == "awq":
        order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
        nibbles = [array.T.reshape(len(array.T), -1, 8)[..., order].reshape(array.T.shape) for array in (codes, zeros)]
        return {
            "qweight": stream(nibbles[0], 4, 1),
            "qzeros": stream(nibbles[1], 4, 1),
            "scales": np.ascontiguousarray(scales.T),
        }, exact
    if method == "gptq":
        less = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
        return {
            "qweight": stream(codes.T, bits, 0),
            "qzeros": stream(zeros.T - less, bits, 1),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": group.astype(np.int32),
        }, exact
    parts = {
        "weight_packed": stream(codes, bits, 1),
        "weight_scale": scales,
        "weight_shape": np.array(values.shape, np.int64),
    }
    return (parts if symmetric else parts | {"weight_zero_point": stream(zeros, bits, 0)}), exact


def rounded(values: np.ndarray, group: np.ndarray, bits: int, symmetric: bool):
    """Codes [out, in], float16 scales and zero points [out, groups]: each from 1 to the largest code."""
    top = 2**bits - 1
    groups = group.max() + 1
    low, high = (
        np.stack([limit(values[:, group == number], axis=1) for number in range(groups)], axis=1)
        for limit in (np.min, np.max)
    )
    if symmetric:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    scales = np.maximum((high - low) / top, 1e-6).astype(np.float16)
    middle = np.full(scales.shape, 2 ** (bits - 1))
    zeros = middle if symmetric else np.clip(np.rint(-low / scales.astype(np.float32)), 1, top).astype(int)
    codes = np.rint(values / scales[:, group].astype(np.float32)) + zeros[:, group]
    return np.clip(codes, 0, top).astype(int), scales, zeros


def stream(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """int32 words with codes along `axis`, lowest bits first."""
    moved = np.moveaxis(codes, axis, -1).astype(np.uint8)
    fields = np.unpackbits(moved[..., None], axis=-1, count=bits, bitorder="little")
    octets = np.packbits(fields.reshape(*moved.shape[:-1], -1), axis=-1, bitorder="little")
    words = np.pad(octets, [(0, 0), (0, -octets.shape[-1] % 4)]).view(np.int32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis))
