"""config.json: what transformers means by it, in the form that mlx-lm's models read."""

from __future__ import annotations

import copy
import json
import math
import pickle

import mlx.core as mx
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_dequant.lm import folder, rotary

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}


@pytest.fixture
def config(tmp_path):
    """Writes config.json and reads it."""

    def read(ignore=(), **settings):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return folder.config(tmp_path, ignore)

    return read


def test_a_key_that_nobody_knows_is_refused(config):
    with pytest.raises(mxd.FormatError, match=r"^config.json: warp_factor: found 9, expected none such in a llama"):
        config(model_type="llama", warp_factor=9)
    assert config(["warp_factor"], model_type="llama", warp_factor=9)["rope_theta"] == 10000
    assert config(model_type="llama", warp_factor=None)["hidden_size"] == 4096


def test_also_in_the_part_for_text(config):
    text = {"model_type": "mistral", "sliding_window": None}
    with pytest.raises(mxd.FormatError, match="warp_factor: found 9, expected none such in a mistral"):
        config(model_type="mistral3", text_config=text | {"warp_factor": 9})
    text["warp_factor"] = 9
    found = config(["warp_factor"], model_type="mistral3", tie_word_embeddings=True, text_config=text)
    assert found["text_config"]["tie_word_embeddings"]


def test_settings_of_text_beside_those_of_pictures(config):
    found = config(model_type="qwen2_vl", vision_config={"depth": 3}, eos_token_id=7, **SMALL)
    assert (found["text_config"]["hidden_size"], found["eos_token_id"]) == (32, 7)
    with pytest.raises(mxd.FormatError, match="warp_factor: found 9, expected none such in a qwen2_vl_text"):
        config(model_type="qwen2_vl", warp_factor=9, **SMALL)


def test_also_in_a_type_without_a_row(config):
    with pytest.raises(mxd.FormatError, match=r"warp_factor: found 9, expected none such in a baichuan_m1"):
        config(model_type="baichuan_m1", warp_factor=9)


LONG = {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}}
VALUES = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act: found 'gelu', expected 'silu' or 'swish'"),
    ("qwen3", {"attention_bias": True}, "attention_bias: found True, expected False"),
    ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings: found False, expected True"),
    ("phi", {"qk_layernorm": True}, "qk_layernorm: found True, expected False"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv: found 8.0, expected None"),
    ("mixtral", {**SMALL, "head_dim": 8}, "head_dim: found 8, expected 32 / 2, as mlx-lm's mixtral has it"),
    ("granite", LONG, "rope_type: found 'longrope', expected default,"),
    ("gemma3_text", {"layer_types": ["sliding_attention"] * 26}, "layer_types: found .*, expected every n-th"),
    ("llama", {"rope_parameters": "fast"}, "settings that transformers' llama does not take"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, expected 1: transformers' llama"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved: found True, expected False"),
    ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping: found None, expected a number"),
    (["llama"], {}, r"model_type: found \['llama'\], expected a name"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "message"), VALUES, ids=[f"{k} {next(iter(s), '')}" for k, s, _ in VALUES]
)
def test_a_value_that_mlx_lm_would_ignore_is_refused(kind, settings, message, config):
    with pytest.raises(mxd.FormatError, match=message):
        config(model_type=kind, **settings)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(mxd.FormatError, match=r"^config.json: found"):
        folder.config(tmp_path)


def test_defaults_are_those_of_transformers(config):
    assert config(model_type="llama")["tie_word_embeddings"] is False
    assert config(model_type="qwen2")["rope_theta"] == 10000
    assert config(model_type="mistral")["sliding_window"] == 4096
    assert config(model_type="mistral", sliding_window=None)["sliding_window"] is None


def test_keys_of_common_files_that_change_nothing(config):
    assert config(model_type="llama", is_llama_config=True, rope_interleaved=False)
    assert config(model_type="qwen2", use_mrope=False)
    assert config(model_type="phi3", full_attn_mod=1, interpolate_factor=1)


def test_where_the_length_of_training_stands(config):
    scaling = {"rope_type": "yarn", "factor": 4.0}
    for settings in (
        {"rope_scaling": scaling | {"original_max_position_embeddings": 32}},
        {"rope_scaling": scaling, "original_max_position_embeddings": 32},
        {"rope_scaling": scaling, "original_max_position_embeddings": 32, "rope_theta": 1e4},
    ):
        found = config(model_type="llama", max_position_embeddings=128, **settings)
        assert found["rope_scaling"]["original_max_position_embeddings"] == 32
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    found = config(model_type="phi3", original_max_position_embeddings=64, rope_scaling={"type": "su", **factors})
    assert found["rope_scaling"]["rope_type"] == "longrope"


def test_windows_of_mistral(config):
    for kind in ("mistral", "ministral3"):
        model = folder.empty_model(config(model_type=kind, sliding_window=4, **SMALL))
        assert all(layer.use_sliding for layer in model.layers)
    kinds = ["full_attention", "sliding_attention"]
    model = folder.empty_model(config(model_type="mistral", sliding_window=4, layer_types=kinds, **SMALL))
    assert [layer.use_sliding for layer in model.layers] == [False, True]


def test_a_type_without_a_row_has_the_output_layer_that_its_model_has(config):
    with pytest.raises(mxd.FormatError, match="tie_word_embeddings: found True, expected False, as mlx-lm's phimoe"):
        folder.empty_model(config(model_type="phimoe", tie_word_embeddings=True, sliding_window=None, **SMALL))
    assert folder.empty_model(config(model_type="phimoe", sliding_window=None, **SMALL))


def test_settings_that_our_rope_does_not_take(config):
    with pytest.raises(mxd.FormatError, match="found settings that cannot be read: TypeError"):
        folder.empty_model(config(model_type="llama", rope_scaling={"type": "linear", "factor": "2"}, **SMALL))


def test_transformers_5_nests_rotary_settings(config):
    found = config(model_type="phi3", rope_parameters={"rope_theta": 5e5, "partial_rotary_factor": 0.5})
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (5e5, 0.5)


def test_rotary_settings_by_kind_of_layer(config):
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 3e4}}
    found = config(model_type="gemma3_text", rope_parameters=rope)
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 3e4)
    with pytest.raises(mxd.FormatError, match="found 'full_attention, sliding_attention', expected one set in a llama"):
        config(model_type="llama", rope_parameters=rope)
    with pytest.raises(mxd.FormatError, match=r"sliding_attention.rope_theta: found 30000.0, expected 1000000.0"):
        config(model_type="olmo3", rope_parameters=rope)


def test_yarns_factor_of_attention(config):
    found = rotary.yarn({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5})
    assert 0.1 * found["mscale"] * math.log(4.0) + 1 == pytest.approx(1.5)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False}
    with pytest.raises(
        mxd.FormatError, match=r"rope_scaling.truncate: found False, expected true: mlx-lm's deepseek_v3"
    ):
        config(model_type="deepseek_v3", rope_parameters={"rope_theta": 1e4, **rope})


def test_longropes_factors():
    scaling = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 16}
    rope = rotary.LongRoPE(16, 1e4, False, 16, scaling)
    x = mx.random.normal((1, 2, 10, 16))
    short, long = (mx.fast.rope(x, 16, traditional=False, base=1e4, scale=s, offset=o) for s, o in ((1, 6), (0.25, 7)))
    assert mx.allclose(rope(x, offset=6), short, atol=1e-5)
    assert mx.allclose(rope(x, offset=7), long, atol=1e-5)
    with pytest.raises(mxd.FormatError, match="long_factor: found 7, expected 8 numbers"):
        rotary.LongRoPE(16, 1e4, False, 16, scaling | {"long_factor": [1.0] * 7})


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_layers_with_windows_can_be_copied(way, config):
    model = folder.empty_model(config(model_type="gemma2", sliding_window=4, **SMALL))
    ids = mx.array([[1, 2, 3, 4, 5, 6, 7, 8]])
    whole = folder.empty_model(config(model_type="gemma2", sliding_window=64, **SMALL))
    whole.update(model.parameters())
    copied = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert mx.array_equal(copied(ids), model(ids))
    assert not mx.allclose(whole(ids), model(ids))
