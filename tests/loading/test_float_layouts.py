"""Small floats in safetensors: every value as the tool's formula gives it in float32."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from folders import DOWN, write_tensors
from support import FIXTURES, gguf_fixture

import mlx_dequant as mxd

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
CT = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def float8(codes):
    """MLX's own decoding of e4m3."""
    return np.array(mx.from_fp8(mx.array(codes), mx.float32))


def write(path, tensors, quantization):
    """A folder: `tensors` is (type, array of the file's bytes) by name."""
    write_tensors(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    return path


def load(path, quantization, module=DOWN, **parts):
    return mxd.load(write(path, {f"{module}.{part}": value for part, value in parts.items()}, quantization)).weights


def same(weight, expected):
    found = np.array(weight.dequantize(mx.float32))
    return found.shape == expected.shape and np.array_equal(found, expected, equal_nan=True)


def group(kind, **weights):
    return CT | {"format": kind, "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8} | weights}}}


@pytest.mark.parametrize("name", sorted(path.name for path in (FIXTURES / "layouts").iterdir()))
def test_what_compressed_tensors_wrote(name):
    weights = mxd.load(FIXTURES / "layouts" / name).weights
    assert set(weights) == {DOWN, f"{DOWN}.expected"}
    assert mx.array_equal(weights[DOWN].dequantize(mx.bfloat16), weights[f"{DOWN}.expected"])


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((), {"quant_method": "fp8", "activation_scheme": "static"}),
        ((1,), {"quant_method": "modelopt", "quant_algo": "FP8"}),
        ((256, 1), group("float-quantized", type="float", strategy="channel")),
        ((256, 1), {"quant_method": "fbgemm_fp8"}),
        ((2, 2), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ((2, 2), group("float-quantized", type="float", strategy="block", block_structure=[128, 128])),
        ((4, 6), {"quant_method": "fp8", "weight_block_size": [64, 32]}),
    ],
)
def test_float8_with_scales(tmp_path, shape, settings):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (256, 192), dtype=np.uint8)
    codes[0] = np.arange(192)
    scale = (rng.random(shape) + 0.5).astype(np.float32)
    name = "weight_scale_inv" if "weight_block_size" in settings else "weight_scale"
    weights = load(tmp_path, settings, weight=("F8_E4M3", codes), **{name: ("F32", scale)}, input_scale=("F32", scale))
    assert list(weights) == [DOWN]
    wide = np.atleast_2d(scale)
    if len(shape) == 2 and shape[1] > 1:
        wide = np.kron(scale, np.ones([(128, 128), (64, 32)][shape == (4, 6)], np.float32))[:256, :192]
    assert same(weights[DOWN], float8(codes) * wide)


@pytest.mark.parametrize(("scale", "kind"), [(2.0**-20, "bf16"), (1 + 1 / 64, "f16"), (1.3, "f32")])
def test_float8_takes_the_smallest_type_that_is_exact(tmp_path, scale, kind):
    codes = np.tile(np.arange(126, dtype=np.uint8), (2, 1))
    settings = {"quant_method": "fp8"}
    weight = load(tmp_path, settings, weight=("F8_E4M3", codes), weight_scale=("F32", np.float32(scale)[None]))[DOWN]
    assert weight.format.name == kind
    assert same(weight, float8(codes) * np.float32(scale))
    assert np.isfinite(np.array(weight.linear(mx.ones((1, 126))))).all()


@pytest.mark.parametrize("kind", ["U8", "F8_E8M0"])
def test_mxfp8(tmp_path, kind):
    codes = np.tile(np.arange(126, dtype=np.uint8), (4, 2))[:, :128]
    powers = np.array([[120, 127, 130, 90]] * 4, np.uint8)
    settings = group("mxfp8-quantized", type="float", strategy="group", group_size=32)
    weight = load(tmp_path, settings, weight=("F8_E4M3", codes), weight_scale=(kind, powers))[DOWN]
    assert same(weight, float8(codes) * np.repeat(np.exp2(powers.astype(np.float32) - 127), 32, axis=1))


def fp4(codes):
    return FP4[np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)]


@pytest.mark.parametrize("tool", ["compressed-tensors", "modelopt"])
def test_nvfp4(tmp_path, tool):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (8, 32), dtype=np.uint8)
    scales = rng.integers(1, 126, (8, 4), dtype=np.uint8)
    whole = np.array([1357.3], np.float32)
    if tool == "modelopt":
        parts = {"weight": ("U8", codes), "weight_scale_2": ("F32", 1 / whole)}
        settings, factor = {"quant_method": "modelopt", "quant_algo": "NVFP4"}, float8(scales) * (1 / whole)
    else:
        parts = {"weight_packed": ("U8", codes), "weight_global_scale": ("F32", whole)}
        settings = group("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16)
        factor = float8(scales) / whole
    weight = load(tmp_path, settings, weight_scale=("F8_E4M3", scales), **parts)[DOWN]
    expected = fp4(codes) * np.repeat(factor, 16, axis=1)
    assert same(weight, expected)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    assert np.allclose(
        np.array(weight.linear(mx.array(x))), x @ expected.T, rtol=0, atol=1e-5 * abs(expected).max() * 64
    )


def test_mxfp4_becomes_ggufs_blocks(tmp_path):
    rng = np.random.default_rng(2)
    codes, powers = rng.integers(0, 256, (8, 32), dtype=np.uint8), rng.integers(100, 140, (8, 2), dtype=np.uint8)
    expected = fp4(codes) * np.repeat(np.exp2(powers.astype(np.float32) - 127), 32, axis=1)
    settings = group("mxfp4-pack-quantized", type="float", strategy="group", group_size=32)
    weight = load(tmp_path, settings, weight_packed=("U8", codes), weight_scale=("U8", powers))[DOWN]
    assert weight.format.name == "mxfp4"
    assert same(weight, expected)


def test_gpt_oss_blocks(tmp_path):
    blocks, expected = gguf_fixture("mxfp4")["real"]
    pairs = np.array(blocks).reshape(4, -1, 17)
    nibbles = np.concatenate([pairs[..., 1:] & 15, pairs[..., 1:] >> 4], -1)
    codes = (nibbles[..., ::2] | nibbles[..., 1::2] << 4).reshape(2, 2, -1, 16)
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = {
        f"{name}_blocks": ("U8", codes),
        f"{name}_scales": ("U8", pairs[..., 0].reshape(2, 2, -1)),
        f"{name}_bias": ("F32", np.ones((2, 2), np.float32)),
    }
    weights = mxd.load(write(tmp_path, tensors, {"quant_method": "mxfp4"})).weights
    assert set(weights) == {name, f"{name}_bias"}
    assert same(weights[name], expected.reshape(2, 2, -1))


def test_settings_in_hf_quant_config(tmp_path):
    codes = np.zeros((2, 32), np.uint8)
    parts = {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", np.ones(1, np.float32))}
    write(tmp_path, {f"{DOWN}.{part}": value for part, value in parts.items()}, None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(settings))
    checkpoint = mxd.load(tmp_path)
    assert checkpoint.format == "modelopt"
    assert same(checkpoint.weights[DOWN], np.zeros((2, 32), np.float32))


def test_what_is_not_read_closes_itself(tmp_path):
    codes, scale = np.zeros((2, 32), np.uint8), np.ones(1, np.float32)
    tensors = {
        "a.weight": ("F8_E4M3", codes),
        "a.weight_scale": ("F32", scale),
        "b.weight": ("F8_E4M3", codes),
        "b.weight_scale": ("F32", scale),
        "b.pre_quant_scale": ("F32", scale),
        "c.weight": ("F8_E4M3", codes),
        "c.weight_scale": ("F32", np.ones((3, 5), np.float32)),
        "d": ("F4", np.zeros(3, np.uint8)),
        "e.weight": ("F8_E4M3", codes),
        "e.weight_scale": ("F32", scale),
        "e.weight_zero_point": ("F32", scale),
    }
    weights = mxd.load(write(tmp_path, tensors, {"quant_method": "modelopt"})).weights
    assert same(weights["a"], np.zeros((2, 32), np.float32))
    for name, message in {
        "b": "module 'b': found pre_quant_scale, a scale of inputs",
        "c": r"module 'c': weight_scale: found shape \(3, 5\) for 2x32 weights",
        "e": "module 'e': weight_zero_point: found zero points, expected only zeros",
        "d": "tensor 'd': found F4, expected one of",
    }.items():
        with pytest.raises(mxd.FormatError, match=message):
            weights[name]


def test_mxfp4_without_outputs(tmp_path):
    settings = group("mxfp4-pack-quantized", type="float", strategy="group", group_size=32)
    empty = {"weight_packed": ("U8", np.zeros((0, 64), np.uint8)), "weight_scale": ("U8", np.zeros((0, 4), np.uint8))}
    assert load(tmp_path, settings, **empty)[DOWN].shape == (0, 128)
