"""config.json with any value in the place of any other: FormatError, or a model that computes; no memory is taken."""

from __future__ import annotations

import copy
import json
import tracemalloc

import mlx.core as mx
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_dequant.lm import folder

ROOM = 64 << 20
BASE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}
MODELS = {
    "llama": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}
VALUES = (
    *(0, 1, -1, 3, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, 0.5, 1e300, float("nan"), float("inf"), True, None),
    *("", "x", "7", [], [1, 2], [[1]], {}, {"a": 1}),
)
FAST = {"num_hidden_layers", "rope_parameters.rope_theta"}


def places(stored: dict, above: tuple[str, ...] = ()):
    """The way to each value."""
    for key, value in stored.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def cases():
    for kind, more in MODELS.items():
        for way in places({"model_type": kind, **BASE, **more}):
            name = ".".join(way)
            fast = kind == "llama" and name in FAST
            yield pytest.param(kind, way, id=f"{kind}-{name}", marks=() if fast else pytest.mark.full)


def opened(path, settings) -> bool:
    """Makes the model, and multiplies with it where it is as small as it was. Whether it was not refused."""
    (path / "config.json").write_text(json.dumps(settings))
    try:
        config = folder.config(path)
        model = folder.empty_model(config)
    except mxd.FormatError:
        return False
    sizes = [config.get(key) for key in ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")]
    if all(type(size) is int and 0 < size <= 64 for size in sizes):
        model(mx.array([[1, 2, 3]]))
    return True


@pytest.mark.parametrize(("kind", "way"), list(cases()))
def test_any_value_of_a_key(kind, way, tmp_path):
    assert opened(tmp_path, {"model_type": kind, **BASE, **MODELS[kind]})
    for value in VALUES:
        settings = copy.deepcopy({"model_type": kind, **BASE, **MODELS[kind]})
        section = settings
        for key in way[:-1]:
            section = section[key]
        section[way[-1]] = value
        tracemalloc.start()
        try:
            opened(tmp_path, settings)
            assert tracemalloc.get_traced_memory()[1] < ROOM, value
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 2**20}, "num_hidden_layers: found 1048576, expected at most 1024"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": ""}}, "found"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: found nan, expected a finite number"),
        ({"vocab_size": 10**30}, "vocab_size: found an integer of 100 bits, expected at most 64"),
        ({"model_type": []}, r"config.json: model_type: found \[\], expected a name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_said(settings, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **BASE, **settings}))
    with pytest.raises(mxd.FormatError, match=message):
        folder.empty_model(folder.config(tmp_path))


def test_a_large_config_is_not_parsed(tmp_path):
    for name in ("config.json", "generation_config.json"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **BASE}))
        (tmp_path / name).write_text('{"a": [' + "[]," * 900_000 + "[]]}")
        with pytest.raises(mxd.FormatError, match=f"{name}: found JSON of 1800003 values"):
            folder.config(tmp_path)
