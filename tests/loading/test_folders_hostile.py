"""Folders whose JSON files hold anything at all give FormatError, or a checkpoint."""

from __future__ import annotations

import contextlib
import json
import warnings

import mlx.core as mx
import pytest
from folders import KEY, module, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from support import group_settings

import mlx_dequant as mxd

SETS = ("gptq_w4_g64_sym_v2_4l", "awq_w4_g64_gemm_4l", "ct_w4a16_g64_asym_4l", "ar_gptq_w3_g32_asym_4l")
KEYS = ("quant_method", "method", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "format", "version")
RULES = ("dynamic", "extra_config", "modules_to_not_convert", "config_groups", "ignore", "packing_format", "backend")
NESTED = ("targets", "weights", "num_bits", "strategy", "type", "symmetric", "sparsity_config")

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 64),
    st.sampled_from([2**31, 2**63, 10**400, 0.5]),
    st.sampled_from(
        ["gptq", "awq", "auto-round", "gptq_v2", "group", "channel", "int", "Linear", KEY, "re:.*", "re:(", ".*"]
    ),
)
names = st.one_of(st.sampled_from([*KEYS, *RULES, *NESTED, KEY, ".*", "-:.*", "+:(?"]), st.text(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=SETS)
def sound(request, tmp_path_factory):
    """A folder, and its quantization config."""
    quantization = group_settings(request.param)
    return write_folder(tmp_path_factory.mktemp("fuzz"), module(KEY, request.param), quantization), quantization


def assert_read_or_refused(folder):
    with contextlib.suppress(mxd.FormatError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert len(dict(mxd.load(folder).weights)) > 0


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*KEYS, *RULES, "sparsity_config"]), values, min_size=1, max_size=3))
def test_any_quantization_config(sound, changes):
    folder, quantization = sound
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization | changes}))
    assert_read_or_refused(folder)


DTYPES = ("bool_", "uint8", "int32", "uint32", "int64", "float16", "bfloat16", "float32")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_tensor_in_place_of_a_part(sound, data):
    folder, quantization = sound
    tensors = mx.load(str(folder / "model.safetensors"))
    part = data.draw(st.sampled_from(sorted(tensors)))
    shape = data.draw(st.one_of(st.just(tensors[part].shape), st.lists(st.integers(0, 12), max_size=3)))
    found = mx.full(shape, data.draw(st.integers(0, 3))).astype(getattr(mx, data.draw(st.sampled_from(DTYPES))))
    target = folder / "other"
    write_folder(target, tensors | {part: found}, quantization)
    assert_read_or_refused(target)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(values, st.dictionaries(st.just("weight_map"), st.dictionaries(st.text(max_size=3), values), min_size=1))
)
def test_any_index(sound, index):
    folder, quantization = sound
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    try:
        assert_read_or_refused(folder)
    finally:
        path.unlink()
