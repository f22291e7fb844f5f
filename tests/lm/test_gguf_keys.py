"""The metadata of GGUF files: each key below the architecture's name is read, harmless, or refused by its name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_dequant.lm.gguf_architectures import ARCHITECTURES
from mlx_dequant.lm.gguf_config import config
from mlx_dequant.lm.gguf_keys import FIXED, HARMLESS

BASE = {
    "block_count": 12,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-6,
    "expert_used_count": 2,
}
PATTERN = np.arange(1, 13) % 4 != 0
GEMMA = {"attention.sliding_window": 8, "attention.sliding_window_pattern": PATTERN}
EXPERTS = {"expert_count": 8, "expert_feed_forward_length": 32}
DELTA = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 64,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "full_attention_interval": 2,
}
# What single architectures need besides.
MORE = {
    "gemma3": {"attention.sliding_window": 8},
    "lfm2": {"shortconv.l_cache": 3},
    "qwen2moe": EXPERTS,
    "qwen3moe": EXPERTS,
    "qwen3vlmoe": EXPERTS,
    "glm4moe": {**EXPERTS, "expert_shared_count": 1},
    "gpt-oss": {**EXPERTS, "attention.sliding_window": 8},
    "granitemoe": EXPERTS,
    "deepseek2": {
        **EXPERTS,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "rope.dimension_count": 8,
        "attention.key_length_mla": 16,
        "attention.value_length_mla": 16,
        "attention.kv_lora_rank": 32,
    },
    "qwen35": DELTA,
    "qwen35moe": {**DELTA, **EXPERTS},
    "qwen3next": {**DELTA, **EXPERTS},
    "falcon-h1": {key: value for key, value in DELTA.items() if key.startswith("ssm.")},
    "gemma3n": {**GEMMA, "altup.num_inputs": 4},
    "gemma4": {**GEMMA, "attention.key_length_swa": 16},
}
UNTIED = ("glm4", "stablelm", "qwen2moe", "glm4moe", "gpt-oss", "deepseek2", "falcon-h1")
TENSORS = {
    **{name: ["output.weight"] for name in UNTIED},
    "gemma3n": ["blk.0.laurel_l.weight", "per_layer_token_embd.weight"],
    "starcoder2": ["output.weight", "blk.0.ffn_up.bias"],
}
# Keys of other kinds of models, which these architectures have no use for.
OTHERS = ("ssm.", "wkv.", "kda.", "indexer.", "clip.", "posnet.", "convnext.", "classifier.", "shortconv.", "xielu.")


def file(architecture="llama", **keys):
    """What `config` needs of an open file."""
    values = {**BASE, **MORE.get(architecture, {}), **keys}
    metadata = {f"{architecture}.{key}": value for key, value in values.items() if value is not None}
    tensors = {f"blk.{number}.attn_q.weight": None for number in range(12)}
    tensors |= dict.fromkeys(TENSORS.get(architecture, ()), SimpleNamespace(shape=(8, 64)))
    tensors["token_embd.weight"] = SimpleNamespace(shape=(288, 64))
    metadata["general.architecture"] = architecture
    return SimpleNamespace(path=Path("model.gguf"), metadata=metadata, tensors=tensors)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_key_that_nobody_knows_is_named(architecture):
    config(file(architecture))
    with pytest.raises(mxd.FormatError) as raised:
        config(file(architecture, **{"attention.twist": 3}))
    name = f"{architecture}.attention.twist"
    assert str(raised.value).startswith(f"model.gguf: {name}: found 3, expected none such: nothing reads it")
    assert f"ignore=['{name}']" in str(raised.value)
    config(file(architecture, **{"attention.twist": 3}), ignore=[name])


@pytest.mark.parametrize("key", FIXED)
def test_a_value_that_is_computed_otherwise_is_named(key):
    for value in FIXED[key]:
        config(file(**{key: value}))
    other = {bool: False, str: "x", int: 3, float: 0.5}[type(FIXED[key][0])]
    other = True if FIXED[key] == (False,) else other
    with pytest.raises(mxd.FormatError, match=rf"llama\.{key}: found {other!r}, expected {FIXED[key][0]!r}"):
        config(file(**{key: other}))


def test_a_file_that_is_no_model_is_named():
    adapter = file()
    adapter.metadata["general.type"] = "adapter"
    with pytest.raises(mxd.FormatError, match=r"general\.type: found 'adapter', expected 'model'"):
        config(adapter)


def test_harmless_keys_change_nothing():
    given = dict.fromkeys(HARMLESS - BASE.keys(), 1.0)
    extra = {"vision.block_count": 27, "mm.tokens_per_image": 256}
    assert config(file(**given, **extra)) == config(file())


def names(owner) -> set[str]:
    """gguf-py's keys below an architecture."""
    found = set()
    for value in vars(owner).values():
        if isinstance(value, str) and value.startswith("{arch}."):
            found.add(value.removeprefix("{arch}."))
        elif isinstance(value, type):
            found |= names(value)
    return found


def test_no_key_of_gguf_py_passes_unread():
    """Each is read, stands in a table, or is refused."""
    before = config(file())
    for key in sorted(names(gguf.Keys)):
        if key in BASE or key in HARMLESS or key in FIXED or key.startswith(OTHERS):
            continue
        for value in (8, 0.7):
            try:
                after = config(file(**{key: value}))
            except mxd.FormatError as error:
                assert f"llama.{key}: found {value!r}" in str(error)
            else:
                assert after != before, key


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scaling.type": "linear", "rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, None),
    ],
)
def test_a_factor_without_a_type_is_linear(keys, expected):
    found = config(file(**keys))["rope_scaling"]
    assert (found and {key: found[key] for key in expected}) == expected


def test_a_window_of_a_model_without_windows():
    assert config(file(**{"attention.sliding_window": 512})) == config(file())
    with pytest.raises(mxd.FormatError, match=r"llama.attention.sliding_window: found 8, expected 0: llama.cpp"):
        config(file(**{"attention.sliding_window": 8}))


def test_which_layers_of_gemma_see_windows():
    key = "attention.sliding_window_pattern"
    assert config(file("gemma3"))["sliding_window_pattern"] == 6
    assert config(file("gemma3", **{key: 4}))["sliding_window_pattern"] == 4
    assert config(file("gemma3", **{key: PATTERN}))["sliding_window_pattern"] == 4
    for bad in (PATTERN[:8], ~PATTERN, np.ones(12, bool), np.arange(12), "x", 0):
        with pytest.raises(mxd.FormatError, match=r"model.gguf: .*(pattern|layer_types).*: found .*, expected "):
            config(file("gemma3", **{key: bad}))


def test_ollamas_names_in_gemmas_files():
    keys = {"rope.global.freq_base": 5e5, "rope.local.freq_base": 2e4, "attention.layer_norm_rms_epsilon": None}
    found = config(file("gemma3", **keys))
    assert (found["rope_theta"], found["rope_local_base_freq"], found["rms_norm_eps"]) == (5e5, 2e4, 1e-6)
    found = config(file("gemma3", **{"rope.freq_base": 3e5, "rope.freq_base_swa": 3e4}))
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (3e5, 3e4)
    with pytest.raises(mxd.FormatError, match=r"llama.attention.layer_norm_rms_epsilon: found None"):
        config(file(**{"attention.layer_norm_rms_epsilon": None}))
