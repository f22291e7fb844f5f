"""Settings and tensors that do not fit each other: what is missing, what is too much, and what says something else."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from folders import DOWN, module, write_folder, write_tensors
from support import group_settings

import mlx_dequant as mxd

GPTQ, CT, AWQ = "gptq_w4_g32_actorder_sym_v1_4l", "ct_w4a16_g64_asym_4l", "awq_w4_g64_gemm_4l"
WHOLE = {"group_size": -1}


def load(path, tensors, settings):
    return mxd.load(write_folder(path, tensors, settings)).weights[DOWN]


def compressed(**weights):
    settings = group_settings(CT)
    group = settings["config_groups"]["group_0"]
    return settings | {"config_groups": {"group_0": group | {"weights": group["weights"] | weights}}}


def rotated(*places):
    apply = [{"targets": ["Linear"], "location": place} for place in places]
    return {"transform_config": {"config_groups": {"R": {"type": "hadamard", "apply": apply}}}}


def test_act_order_without_the_groups_of_inputs(tmp_path):
    tensors, settings = module(DOWN, GPTQ), group_settings(GPTQ)
    del tensors[f"{DOWN}.g_idx"]
    with pytest.raises(mxd.FormatError, match="g_idx: found none, expected the group of each input"):
        load(tmp_path, tensors, settings)
    load(tmp_path, tensors, settings | {"static_groups": True})
    for part in ("scales", "qzeros"):
        tensors[f"{DOWN}.{part}"] = tensors[f"{DOWN}.{part}"][:1]
    load(tmp_path, tensors, settings | WHOLE)


def test_act_order_with_scales_without_axes(tmp_path):
    tensors = module(DOWN, GPTQ)
    tensors[f"{DOWN}.scales"] = mx.array(1.0, mx.float16)
    with pytest.raises(mxd.FormatError, match=r"scales: found (0 axes|shape) \(\), expected"):
        load(tmp_path, tensors, group_settings(GPTQ))


@pytest.mark.parametrize("order", ["group", "dynamic", True])
def test_compressed_tensors_act_order_without_the_groups_of_inputs(tmp_path, order):
    with pytest.raises(mxd.FormatError, match="weight_g_idx: found none, expected the group of each input"):
        load(tmp_path, module(DOWN, CT), compressed(actorder=order))
    load(tmp_path, module(DOWN, CT), compressed(actorder="static"))


def test_int8_in_act_order(tmp_path):
    rng = np.random.default_rng(0)
    codes, scales = rng.integers(-128, 128, (32, 128)).astype(np.int8), rng.random((32, 2)).astype(np.float32)
    group = rng.permutation(np.arange(128) // 64).astype(np.int32)
    parts = {"weight": codes, "weight_scale": scales, "weight_g_idx": group}
    settings = compressed(num_bits=8, symmetric=True, actorder="group") | {"format": "int-quantized"}
    weight = load(tmp_path, {f"{DOWN}.{part}": mx.array(array) for part, array in parts.items()}, settings)
    assert np.array_equal(np.array(weight.dequantize(mx.float32)), codes.astype(np.float32) * scales[:, group])


def test_awq_with_act_order(tmp_path):
    tensors, settings = module(DOWN, AWQ), group_settings(AWQ)
    inputs = tensors[f"{DOWN}.qweight"].shape[0]
    tensors[f"{DOWN}.g_idx"] = mx.arange(inputs) // 64
    load(tmp_path, tensors, settings)
    tensors[f"{DOWN}.g_idx"] = tensors[f"{DOWN}.g_idx"][::-1]
    with pytest.raises(mxd.FormatError, match="g_idx: found act-order, expected groups in their order"):
        load(tmp_path, tensors, settings)


def test_missing_zero_points(tmp_path):
    tensors = module(DOWN, CT)
    del tensors[f"{DOWN}.weight_zero_point"]
    with pytest.raises(mxd.FormatError, match="weight_zero_point: found none, expected it: the config says"):
        load(tmp_path, tensors, compressed())
    load(tmp_path, tensors, compressed(symmetric=True))


@pytest.mark.parametrize(
    ("group_set", "extra", "message"),
    [
        (CT, "g_idx", "g_idx: found one, expected none beside weight_packed"),
        (AWQ, "weight_g_idx", "weight_g_idx: found one, expected none beside qweight"),
        (GPTQ, "channel_scale", "found channel_scale, a scale of inputs, which is not read"),
        (GPTQ, "lora_A", "found lora_A, an adapter, which is not read"),
    ],
)
def test_tensors_of_other_layouts_close_their_module(tmp_path, group_set, extra, message):
    tensors = module(DOWN, group_set) | {f"{DOWN}.{extra}": mx.ones(4), "model.norm.weight": mx.ones(4)}
    checkpoint = mxd.load(write_folder(tmp_path, tensors, group_settings(group_set)))
    assert checkpoint.weights["model.norm.weight"].shape == (4,)
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': {message}"):
        checkpoint.weights[DOWN]
    tensors[f"{DOWN}.{extra}"] = mx.zeros(0)
    load(tmp_path, tensors, group_settings(group_set))


def test_keys_of_one_meaning_that_disagree(tmp_path):
    settings = group_settings(GPTQ) | {"checkpoint_format": "gptq", "format": "gptq_v2"}
    with pytest.raises(mxd.FormatError, match="format: found 'gptq_v2', expected 'gptq', as checkpoint_format says"):
        load(tmp_path, module(DOWN, GPTQ), settings)
    load(tmp_path, module(DOWN, GPTQ), settings | {"format": "GPTQ"})


@pytest.mark.parametrize(
    ("places", "found"), [(["weight_input", "input"], "'input'"), (["k_cache"], "'k_cache'"), ([], "")]
)
def test_rotations_that_the_model_would_have_to_undo(tmp_path, places, found):
    with pytest.raises(mxd.FormatError, match=f"transform_config: found rotations of {found}"):
        load(tmp_path, module(DOWN, CT), compressed() | rotated(*places))


def test_rotations_that_are_in_the_weights(tmp_path):
    load(tmp_path, module(DOWN, CT), compressed() | rotated("weight_input", "weight_output"))


def test_float8_of_other_kinds_closes_its_module(tmp_path):
    codes, one = np.ones((4, 8), np.uint8), np.ones((), np.float32)
    tensors = {f"{name}.weight_scale": ("F32", one) for name in (DOWN, "other")}
    tensors |= {f"{DOWN}.weight": ("F8_E5M2", codes), "other.weight": ("F8_E4M3", codes)}
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    write_tensors(tmp_path / "model.safetensors", tensors)
    weights = mxd.load(tmp_path).weights
    assert weights["other"].shape == (4, 8)
    with pytest.raises(mxd.FormatError, match="weight: found F8_E5M2, expected F8_E4M3"):
        weights[DOWN]
    write_tensors(tmp_path / "model.safetensors", tensors | {"other.weight_scale_inv": ("F32", one)})
    with pytest.raises(mxd.FormatError, match="weight_scale_inv: found one beside weight_scale"):
        mxd.load(tmp_path).weights["other"]


@pytest.mark.parametrize(
    ("method", "of"), [("GPTQ", GPTQ), ("auto_round", "ar_gptq_w4_g64_asym_4l"), ("compressed_tensors", CT)]
)
def test_other_spellings_of_methods(tmp_path, method, of):
    load(tmp_path, module(DOWN, of), group_settings(of) | {"quant_method": method})


@pytest.mark.parametrize(
    ("tensor", "whose"),
    [("qweight", "GPTQ or AWQ"), ("Qidxs", "QuIP"), ("q_weight", "ExLlama"), ("SCB", "bitsandbytes")],
)
def test_a_folder_without_settings_says_whose_its_tensors_are(tmp_path, tensor, whose):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {f"{DOWN}.{tensor}": mx.ones(4)})
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": None}))
    with pytest.raises(mxd.FormatError, match=f"found no quantization_config .*; its tensors are those of {whose}"):
        mxd.load(tmp_path)


@pytest.mark.parametrize("found", ["gptq", [1]])
def test_a_quantization_config_of_another_type(tmp_path, found):
    with pytest.raises(mxd.FormatError, match=r"quantization_config: found .*, expected an object"):
        load(tmp_path, {"a": mx.ones(4)}, found)


def test_what_is_not_read_is_named_first(tmp_path):
    settings = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    with pytest.raises(mxd.FormatError, match=r"sparsity_config.format: found 'sparse-bitmask'"):
        load(tmp_path, {"a": mx.ones(4)}, settings)
    with pytest.raises(mxd.FormatError, match="quant_method: found 'bitsandbytes'"):
        load(tmp_path, {"a": mx.ones(4)}, {"load_in_4bit": True})
    parts = {"weight": np.ones((4, 8), np.uint8), "weight_scale": np.ones((4, 1), np.float32)}
    tensors = {f"{DOWN}.{part}": mx.array(array) for part, array in parts.items()}
    with pytest.raises(mxd.FormatError, match=r"found U8 with float scales \(ModelOpt's 4-bit integers\)"):
        load(tmp_path, tensors, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"})


def test_compressed_tensors_without_a_format(tmp_path):
    settings = compressed()
    del settings["format"], settings["config_groups"]["group_0"]["format"]
    assert load(tmp_path, module(DOWN, CT), settings).format.bits == 4
