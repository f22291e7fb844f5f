"""Folders of FP8, NVFP4 and MXFP4 run as models, against transformers with the same weights decoded."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from folders import write_tensors  # noqa: E402
from lm_models import difference, transformers_model  # noqa: E402
from lm_zoo import opened  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
SIZES = {"hidden_size": 256, "intermediate_size": 192}
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def compressed(kind, **weights):
    weights = {"num_bits": 8, "type": "float"} | weights
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": kind, "ignore": ["lm_head"], "config_groups": groups}


# By name: the settings, and the tensors of a layer from random codes.
KINDS = {
    "FP8 by block": {"quant_method": "fp8", "weight_block_size": [64, 64], "modules_to_not_convert": ["lm_head"]},
    "FP8 by output": compressed("float-quantized", strategy="channel"),
    "FP8 of ModelOpt": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "NVFP4": compressed("nvfp4-pack-quantized", num_bits=4, strategy="tensor_group", group_size=16),
    "NVFP4 of ModelOpt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "MXFP4": compressed("mxfp4-pack-quantized", num_bits=4, strategy="group", group_size=32),
}


def float8(codes):
    return np.array(mx.from_fp8(mx.array(codes), mx.float32))


def layer(name, outputs, inputs, rng):
    """The tensors (type, array), and the values that they stand for, about 0.05 large."""
    if "FP8" in name:
        codes = rng.integers(0, 256, (outputs, inputs), dtype=np.uint8)
        codes[codes & 127 == 127] = 0  # no NaN
        shape = {"FP8 by block": (outputs // 64, inputs // 64), "FP8 by output": (outputs, 1)}.get(name, ())
        scale = (rng.random(shape) * 1e-3 + 1e-4).astype(np.float32)
        wide = np.kron(scale, np.ones((64, 64), np.float32)) if "block" in name else scale
        part = "weight_scale_inv" if "block" in name else "weight_scale"
        parts = {"weight": ("F8_E4M3", codes), part: ("F32", scale)}
        extra = {"input_scale": ("F32", np.float32(1)[None])} if "ModelOpt" in name else {}
        return parts | extra, float8(codes) * wide
    codes = rng.integers(0, 256, (outputs, inputs // 2), dtype=np.uint8)
    values = FP4[np.stack([codes & 15, codes >> 4], -1).reshape(outputs, inputs)]
    if name == "MXFP4":
        powers = rng.integers(121, 124, (outputs, inputs // 32), dtype=np.uint8)
        parts = {"weight_packed": ("U8", codes), "weight_scale": ("U8", powers)}
        return parts, values * np.repeat(np.exp2(powers.astype(np.float32) - 127), 32, axis=1)
    scales = rng.integers(40, 80, (outputs, inputs // 16), dtype=np.uint8)
    whole = np.array([57.3], np.float32)
    if "ModelOpt" in name:
        parts = {"weight": ("U8", codes), "weight_scale_2": ("F32", 1 / whole)}
        factor = float8(scales) * (1 / whole)
    else:
        parts = {"weight_packed": ("U8", codes), "weight_global_scale": ("F32", whole)}
        factor = float8(scales) / whole
    return parts | {"weight_scale": ("F8_E4M3", scales)}, values * np.repeat(factor, 16, axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_of_small_floats_runs(name, tmp_path):
    theirs = transformers_model("qwen3", **SIZES)
    rng = np.random.default_rng(0)
    tensors = {}
    for parameter, values in theirs.state_dict().items():
        module, _, _ = parameter.rpartition(".")
        if module.endswith("_proj"):
            parts, exact = layer(name, *values.shape, rng)
            tensors |= {f"{module}.{part}": value for part, value in parts.items()}
            values.copy_(torch.from_numpy(exact))
        elif parameter != "lm_head.weight":
            tensors[parameter] = ("F32", values.numpy())
    if "ModelOpt" in name:
        scale = ("F32", np.float32(1)[None])
        tensors |= {f"model.layers.0.self_attn.{part}_proj.{part}_scale": scale for part in "kv"}
    write_tensors(tmp_path / "model.safetensors", tensors)
    config = json.loads(theirs.config.to_json_string()) | {"quantization_config": KINDS[name]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    ours = opened(tmp_path)
    assert difference(np.array(ours(mx.array(IDS))), expected) < 5e-5
    weight = ours.model.layers[0].mlp.up_proj.weight
    if "FP8" in name:  # decoded: it has no kernel
        assert weight.dtype == mx.float32
    else:
        assert weight.format.name == ("mxfp4" if name == "MXFP4" else "ct8")
