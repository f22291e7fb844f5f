"""Loaded models behave as MLX's own: copies, files, adapters. What tools add to them changes nothing."""

from __future__ import annotations

import copy
import json
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_folders import write_folder  # noqa: E402
from lm_models import difference, transformers_model, write_gguf  # noqa: E402
from lm_zoo import opened  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
SIZES = {"hidden_size": 256, "intermediate_size": 192}


def logits(model) -> np.ndarray:
    return np.array(model(mx.array(IDS)))


def theirs(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


@pytest.fixture
def llama(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    return mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)[0]


@pytest.fixture
def folder(tmp_path):
    """Writes a small GPTQ model, whose tensors and settings a test changes: its path, and transformers' model."""

    def write(change=lambda tensors: {}, kind="llama", **config):
        model = transformers_model(kind, **SIZES)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        path = tmp_path / "model"
        settings = json.loads(model.config.to_json_string()) | config
        exact = write_folder(path, "gptq", settings, weights)
        model.load_state_dict({key: torch.from_numpy(value) for key, value in exact.items()})
        tensors = mx.load(str(path / "model.safetensors"))
        tensors |= change(tensors)
        mx.save_safetensors(str(path / "model.safetensors"), {k: v for k, v in tensors.items() if v is not None})
        return path, model

    return write


@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle"])
def test_a_model_can_be_copied(way, llama):
    before = logits(llama)
    copied = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}[way](
        llama
    )
    assert np.array_equal(logits(copied), before)
    if way != "copy":
        layer = llama.model.layers[0].mlp.up_proj
        layer["blocks"] = mx.zeros_like(layer["blocks"])
        assert np.array_equal(logits(copied), before)
        assert not np.array_equal(logits(llama), before)


@pytest.mark.parametrize("keys", [None, ["model.embed_tokens", "self_attn.q_proj"]], ids=["all", "embedding"])
def test_adapters_become_dense_layers(keys, tmp_path):
    from mlx_lm.tuner import utils

    name = "llama tied, with biases" if keys else "llama"
    write_gguf(tmp_path / "model.gguf", name, transformers_model(name))
    llama = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)[0]
    unchanged = logits(llama)
    llama.freeze()
    utils.linear_to_lora_layers(llama, 2, {"rank": 4, "dropout": 0.0, "scale": 2.0, "keys": keys})
    assert np.array_equal(logits(llama), unchanged)
    mx.random.seed(0)
    adapters = [
        (name, mx.random.normal(array.shape) * 0.1) for name, array in tree_flatten(llama.trainable_parameters())
    ]
    assert adapters
    llama.update(tree_unflatten(adapters))
    before = logits(llama)
    assert difference(before, unchanged) > 1e-2
    fused = [(name, layer.fuse()) for name, layer in llama.named_modules() if hasattr(layer, "fuse")]
    assert {type(layer) for _, layer in fused} == ({nn.Linear, nn.Embedding} if keys else {nn.Linear})
    llama.update_modules(tree_unflatten(fused))
    assert difference(logits(llama), before) < 2e-5


def test_dora_of_packed_layers_is_refused(llama):
    from mlx_lm import lora
    from mlx_lm.tuner import utils

    settings = {"rank": 4, "dropout": 0.0, "scale": 2.0}
    for module in (utils, lora):
        with pytest.raises(mxd.FormatError, match=r"^use_dora: found True with 23 packed layers \(lm_head, "):
            module.linear_to_lora_layers(llama, 2, settings, use_dora=True)
    dense = mxd.lm.dense.unpack_model(llama)
    utils.linear_to_lora_layers(dense, 2, settings, use_dora=True)
    assert dense.trainable_parameters()


def test_zero_biases_and_scales_of_caches_are_extras(folder):
    def change(tensors):
        more = {}
        for key in tensors:
            module, _, part = key.rpartition(".")
            if part == "scales":
                more[f"{module}.bias"] = mx.zeros(tensors[key].shape[1], mx.float16)
        return more | {f"model.layers.0.self_attn.{name}_scale": mx.array([0.5]) for name in "kv"}

    path, expected = folder(change)
    assert difference(logits(opened(path)), theirs(expected)) < 2e-5


def test_a_bias_that_is_no_zero_is_refused(folder):
    path, _ = folder(lambda tensors: {"model.layers.1.mlp.up_proj.bias": mx.ones(192, mx.float16)})
    with pytest.raises(mxd.FormatError, match=r"^model.layers.1.mlp.up_proj.bias: not a weight of mlx-lm's model"):
        opened(path)


@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_an_output_layer_beside_tied_embeddings_is_one_of_its_own(prefix, folder):
    """As transformers has it: two different tensors are two."""

    def change(tensors):
        return dict.fromkeys(tensors) | {f"{prefix}{key}": array for key, array in tensors.items()}

    config = {"tie_word_embeddings": True}
    if prefix:
        inner = json.loads(transformers_model("mistral", **SIZES).config.to_json_string())
        config |= {"model_type": "mistral3", "text_config": inner | {"tie_word_embeddings": True}}
    path, expected = folder(change if prefix else lambda tensors: {}, "mistral", **config)
    if prefix:
        settings = json.loads((path / "config.json").read_text())
        outer = ("model_type", "text_config", "tie_word_embeddings", "quantization_config")
        (path / "config.json").write_text(json.dumps({key: settings[key] for key in outer}))
    assert difference(logits(opened(path)), theirs(expected)) < 2e-5


def test_a_copy_of_the_embedding_is_none(folder):
    def change(tensors):
        return {"lm_head.weight": tensors["model.embed_tokens.weight"]}

    path, expected = folder(change, tie_word_embeddings=True)
    expected.lm_head.weight = expected.model.embed_tokens.weight
    model = opened(path)
    assert "lm_head" not in model
    assert difference(logits(model), theirs(expected)) < 2e-5


def test_an_output_layer_that_mlx_lm_has_no_place_for_is_refused(folder):
    path, _ = folder(
        kind="llama", model_type="cohere", layer_norm_eps=1e-5, rms_norm_eps=None, tie_word_embeddings=True
    )
    with pytest.raises(mxd.FormatError, match=r"lm_head.weight: found an output layer, expected the embedding"):
        opened(path)


def test_vision_tensors_of_a_gguf_file_are_left_out(tmp_path, monkeypatch):
    from gguf import GGUFWriter

    add_all = GGUFWriter.write_header_to_file

    def with_vision(writer):
        writer.add_tensor("v.blk.0.attn_q.weight", np.ones((4, 4), np.float32))
        writer.add_tensor("mm.0.weight", np.ones((4, 4), np.float32))
        add_all(writer)

    monkeypatch.setattr(GGUFWriter, "write_header_to_file", with_vision)
    expected = transformers_model("llama")
    write_gguf(tmp_path / "model.gguf", "llama", expected)
    with pytest.warns(UserWarning, match=r"model.gguf: runs as a text model, without 2 vision tensors"):
        model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    assert difference(logits(model), theirs(expected)) < 2e-5


def test_yarns_keys_of_a_gguf_file(tmp_path):
    name = "qwen3, yarn"
    keys = {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0}
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
    expected = transformers_model(name, rope_parameters=rope | {"beta_fast": 8.0, "beta_slow": 2.0})
    write_gguf(tmp_path / "model.gguf", name, expected, **keys)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    assert difference(logits(model), theirs(expected)) < 2e-5
    plain = transformers_model(name, rope_parameters=rope)
    plain.load_state_dict(expected.state_dict())
    assert difference(theirs(plain), theirs(expected)) > 1e-4


def test_yarns_factor_of_attention_in_a_gguf_file_is_refused(tmp_path):
    name = "qwen3, yarn"
    write_gguf(tmp_path / "model.gguf", name, transformers_model(name), **{"rope.scaling.yarn_attn_factor": 1.5})
    with pytest.raises(mxd.FormatError, match=r"qwen3.rope.scaling.yarn_attn_factor: found 1.5, expected 1.0"):
        mxd.lm.load(tmp_path / "model.gguf")
