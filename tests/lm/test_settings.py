"""Settings that mlx-lm reads under other names."""

from __future__ import annotations

import json
import math

import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")


def config(path, **settings):
    from mlx_dequant.lm.folder import config

    (path / "config.json").write_text(json.dumps(settings))
    return config(path)


def test_transformers_5_nests_rotary_settings(tmp_path):
    found = config(tmp_path, model_type="phi3", rope_parameters={"rope_theta": 5e5, "partial_rotary_factor": 0.5})
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (5e5, 0.5)


def test_rotary_settings_by_kind_of_layer(tmp_path):
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 3e4}}
    found = config(tmp_path, model_type="gemma3_text", rope_parameters=rope)
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 3e4)
    with pytest.raises(mxd.FormatError, match="rope_parameters: found 'full_attention, sliding_attention', expected one"):
        config(tmp_path, model_type="llama", rope_parameters=rope)


def test_yarns_factor_of_attention():
    from mlx_dequant.lm.rotary import yarn

    found = yarn({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5})
    assert 0.1 * found["mscale"] * math.log(4.0) + 1 == pytest.approx(1.5)
    with pytest.raises(mxd.FormatError, match=r"rope_scaling.truncate: found false"):
        yarn({"rope_type": "yarn", "factor": 4.0, "truncate": False})
