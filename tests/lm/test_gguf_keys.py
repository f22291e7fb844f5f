"""Keys of GGUF files that ask for what no model computes, or that leave something out."""

from __future__ import annotations

import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_gguf import transformers_model, write_gguf

from mlx_dequant.lm import gguf_config
from mlx_dequant.lm.gguf_rope import llama3_scaling
from mlx_dequant.loading import GGUFFile


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of some architectures, each written once."""
    paths = {}

    def opened(name, **changes):
        if name not in paths:
            paths[name] = tmp_path_factory.mktemp("files") / "model.gguf"
            write_gguf(paths[name], name, transformers_model(name))
        file = GGUFFile(paths[name])
        prefix = file.metadata["general.architecture"]
        file.metadata = {**file.metadata, **{f"{prefix}.{key}": value for key, value in changes.items()}}
        return file

    return opened


REFUSED = [
    ("ministral3", {"attention.temperature_length": 32}, "temperature_length: found 32, expected 16"),
    ("ministral3", {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor: found 0.5, expected none"),
    ("ministral3", {"rope.scaling.attn_factor": 2.0}, "attn_factor: found 2.0, expected 1 without rope_factors_long"),
    ("ministral3", {"rope.dimension_count": 16}, r"dimension_count: found 16, expected 64 \(the length of a key\)"),
    ("phi3, longrope", {"rope.dimension_count": 15}, "dimension_count: found 15, expected an even number up to 32"),
    ("phi3, longrope", {"rope.dimension_count": 16}, "(?s)model.gguf: as config.json: .*short_factor"),
    ("olmo3", {"attention.sliding_window_pattern": [True]}, "found 1, expected 4 values, one a layer"),
    ("lfm2", {"attention.head_count_kv": [0, 2, 0, 4]}, r"found \[2, 4\], expected one number of heads"),
    ("lfm2", {"shortconv.l_cache": 0}, "l_cache: found 0, expected a positive integer"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_is_refused(name, changes, message, files):
    with pytest.raises(mxd.FormatError, match=message):
        gguf_config.config(files(name, **changes))


def test_keys_decide_which_model_it_is(files):
    assert gguf_config.config(files("olmo3"))["model_type"] == "olmo3"
    assert gguf_config.config(files("olmo3", **{"attention.sliding_window": 0}))["model_type"] == "olmo2"
    assert gguf_config.config(files("ministral3"))["model_type"] == "ministral3"
    assert gguf_config.config(files("ministral3", **{"attention.temperature_scale": 0.0}))["model_type"] == "mistral"


def test_factors_of_one_turn_as_without():
    assert llama3_scaling([1.0] * 8, 1e4) == {"rope_type": "default"}
    with pytest.raises(mxd.FormatError, match="factors that are not llama3's"):
        llama3_scaling([1.0, 5.0, 2.0, 3.0], 1e4)
