"""Settings that differ by module, and the kind of GPTQ's zero points."""

from __future__ import annotations

import warnings

import mlx.core as mx
import pytest
from folders import DOWN, KEY, assert_decodes, module, write_folder
from support import group_settings

import mlx_dequant as mxd

# Two sets that differ in bits and group size: k_proj of the one, down_proj of the other.
MIXED = {
    "gptq": ("gptq_w4_g64_asym_v1_4l", "gptq_w8_g32_asym_actorder_v1_4l"),
    "awq": ("awq_w4_g64_gemm_4l", "ar_awq_w4_g128_asym_4l"),
    "compressed-tensors": ("ct_w4a16_g64_asym_4l", "ct_w8a16_gchan_sym_4l"),
}
DENSE = {"model.layers.0.mlp.gate_proj.weight": mx.ones((4, 8), mx.float16)}


def mixed(path, method, **changes):
    first, second = MIXED[method]
    tensors = module(KEY, first) | module(DOWN, second) | DENSE
    return write_folder(path, tensors, group_settings(first) | changes)


def assert_both_decode(folder, method):
    checkpoint = mxd.load(folder)
    assert checkpoint.format == method
    assert_decodes(checkpoint, KEY)
    assert_decodes(checkpoint, DOWN)
    assert isinstance(checkpoint.weights["model.layers.0.mlp.gate_proj.weight"], mx.array)


@pytest.mark.parametrize("sign", ["", "+:"])
def test_dynamic_rules(tmp_path, sign):
    rules = {"-:.*gate_proj": {}, rf"{sign}model\..*\.down_proj": {"bits": 8, "group_size": 32}, ".*": {}}
    assert_both_decode(mixed(tmp_path, "gptq", dynamic=rules), "gptq")


def test_the_first_dynamic_rule_that_fits_from_the_start_counts(tmp_path):
    rules = {"down_proj": {"bits": 2}, ".*down": {"bits": 8, "group_size": 32}, ".*down_proj": {"bits": 3}}
    assert_both_decode(mixed(tmp_path, "gptq", dynamic=rules), "gptq")
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': qzeros: found shape"):
        mxd.load(mixed(tmp_path, "gptq")).weights[DOWN]


def test_dynamic_rules_hold_for_awq_too(tmp_path):
    folder = mixed(tmp_path, "awq", dynamic={".*down_proj": {"group_size": 128}})
    assert_both_decode(folder, "awq")


@pytest.mark.parametrize("name", [DOWN, r"model\.layers\.\d+\.mlp\..*"])
def test_auto_rounds_extra_config(tmp_path, name):
    folder = mixed(
        tmp_path,
        "gptq",
        quant_method="auto-round",
        packing_format="auto_round:auto_gptq",
        data_type="int",
        extra_config={name: {"bits": 8, "group_size": 32}, "model.layers.0.mlp.gate_proj": {"bits": 16}},
    )
    assert_both_decode(folder, "gptq")


@pytest.mark.parametrize(
    ("group_set", "changes"),
    [
        ("ar_awq_w4_g64_asym_4l", {"packing_format": "auto_round:auto_awq"}),
        ("ar_gptq_w4_g64_asym_4l", {"packing_format": "auto_round:auto_gptq"}),
        ("ar_gptq_w3_g32_asym_4l", {}),
        ("ar_gptq_w4_g64_asym_4l", {"quant_method": "intel/auto-round", "backend": "auto_round:gptq:exllamav2"}),
        ("gptq_w4_g64_asym_v2_4l", {"packing_format": "auto_round:gptqmodel"}),
        ("gptq_w4_g64_asym_v2_4l", {"backend": "auto_round:exllamav2"}),
        ("ar_gptq_w4_g64_asym_4l", {"quant_method": "intel/auto-round", "backend": "gptq:exllamav2"}),
        ("ar_gptq_w4_g64_asym_4l", {"backend": "auto_gptq:tritonv2"}),
        ("ar_awq_w4_g64_asym_4l", {"backend": "awq:gemm"}),
    ],
)
def test_auto_rounds_own_layout_names(tmp_path, group_set, changes):
    quantization = group_settings(group_set) | {"quant_method": "auto-round"} | changes
    assert_decodes(mxd.load(write_folder(tmp_path, module(DOWN, group_set), quantization)), DOWN)


CHANNEL = {"num_bits": 8, "strategy": "channel", "symmetric": True, "type": "int", "group_size": None}
GROUPED = {"num_bits": 4, "strategy": "group", "symmetric": False, "type": "int", "group_size": 64}


@pytest.mark.parametrize("target", [DOWN, r"re:.*\.down_proj$"])
def test_config_groups_by_name_pattern_and_class(tmp_path, target):
    groups = {
        "group_0": {"targets": ["Linear"], "weights": GROUPED, "format": "pack-quantized"},
        "group_1": {"targets": [target], "weights": CHANNEL, "format": None},
    }
    assert_both_decode(mixed(tmp_path, "compressed-tensors", config_groups=groups), "compressed-tensors")


def test_a_module_without_a_config_group(tmp_path):
    groups = {"group_0": {"targets": [KEY], "weights": GROUPED}}
    checkpoint = mxd.load(mixed(tmp_path, "compressed-tensors", config_groups=groups))
    assert_decodes(checkpoint, KEY)
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': config_groups: found targets"):
        checkpoint.weights[DOWN]


@pytest.mark.parametrize(
    ("field", "value"),
    [("type", "float"), ("strategy", "block"), ("strategy", "tensor"), ("num_bits", "4"), ("group_size", None)],
)
def test_another_scheme_closes_only_the_modules_of_its_group(tmp_path, field, value):
    groups = {
        "group_0": {"targets": [DOWN], "weights": GROUPED | {field: value}},
        "group_1": {"targets": ["Linear"], "weights": GROUPED},
    }
    checkpoint = mxd.load(mixed(tmp_path, "compressed-tensors", config_groups=groups))
    assert_decodes(checkpoint, KEY)
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': .*{field}: found {value!r}"):
        checkpoint.weights[DOWN]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("gptq", {"dynamic": {"-:.*down_proj": {}}}),
        ("awq", {"modules_to_not_convert": ["lm_head", "mlp.down_proj"]}),
        ("awq", {"modules_to_not_convert": ["model.layers.0.mlp"]}),
        ("compressed-tensors", {"ignore": [DOWN]}),
        ("compressed-tensors", {"ignore": ["re:.*down"]}),
    ],
)
def test_a_packed_module_that_the_config_calls_unquantized(tmp_path, method, changes):
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': found .* unquantized by the config"):
        mxd.load(mixed(tmp_path, method, **changes))


def test_names_of_unconverted_modules_are_whole_names(tmp_path):
    group_set = MIXED["awq"][0]
    quantization = group_settings(group_set) | {"modules_to_not_convert": ["down", "proj", "layers.0.mlp.gate_proj"]}
    folder = write_folder(tmp_path, module(DOWN, group_set) | DENSE, quantization)
    assert_decodes(mxd.load(folder), DOWN)


def relabelled(path, group_set, label):
    quantization = group_settings(group_set)
    for key in ("checkpoint_format", "format"):
        quantization.pop(key, None)
    if label is not None:
        quantization["checkpoint_format"] = label
    return write_folder(path, module(DOWN, group_set) | module(KEY, group_set), quantization)


V1 = ("gptq_w2_g32_sym_v1_4l", "gptq_w3_g64_sym_v1_4l", "gptq_w4_gchan_sym_v1_4l", "gptq_w8_g64_sym_v1_4l")


@pytest.mark.parametrize(
    ("group_set", "label"),
    [("gptq_w4_g64_sym_v2_4l", "gptq"), ("gptq_w4_g64_sym_v2_4l", None), *((name, "gptq_v2") for name in V1)],
)
def test_a_symmetric_model_with_the_other_label(tmp_path, group_set, label):
    folder = relabelled(tmp_path, group_set, label)
    with pytest.warns(UserWarning, match=f"^{folder}: labelled as GPTQ v") as caught:
        checkpoint = mxd.load(folder)
    assert caught[0].filename == __file__
    assert_decodes(checkpoint, DOWN)
    assert_decodes(checkpoint, KEY)


def test_eight_bit_zeros_of_128_under_a_gptq_label(tmp_path):
    tensors = module(DOWN, "gptq_w8_g64_sym_v1_4l")
    tensors[f"{DOWN}.qzeros"] = mx.full(tensors[f"{DOWN}.qzeros"].shape, 0x80808080, mx.uint32).view(mx.int32)
    folder = write_folder(tmp_path, tensors, group_settings("gptq_w8_g64_sym_v1_4l"))
    with pytest.warns(UserWarning, match="stored as 128, which is v2"):
        checkpoint = mxd.load(folder)
    assert_decodes(checkpoint, DOWN)


def test_the_caller_may_keep_the_label(tmp_path):
    folder = relabelled(tmp_path, "gptq_w4_g64_sym_v2_4l", "gptq")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = mxd.load(folder, zero_points="v1").weights[DOWN]
        assert_decodes(mxd.load(folder, zero_points="v2"), DOWN)
    # A zero point too high by one takes a whole scale off every weight.
    scales = mx.repeat(module(DOWN, "gptq_w4_g64_sym_v2_4l")[f"{DOWN}.scales"], 64, axis=0)
    expected = module(DOWN, "gptq_w4_g64_sym_v2_4l")[f"{DOWN}.expected"].T
    assert mx.allclose(kept.dequantize(mx.float32), expected.astype(mx.float32) - scales, rtol=0, atol=1e-3)
    with pytest.raises(mxd.FormatError, match="zero_points: found 'v3', expected one of v1, v1-field, v2"):
        mxd.load(folder, zero_points="v3")


def test_an_asymmetric_model_keeps_its_label(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = mxd.load(relabelled(tmp_path, "gptq_w4_g64_asym_v1_4l", None))
    assert_decodes(checkpoint, DOWN)
