"""Models from folders in the tools' formats, against transformers with the same weights unpacked."""

from __future__ import annotations

import json
import os

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.lm import folder
from mlx_dequant.nn import PackedEmbedding, PackedLinear

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

import lm_smollm2 as smollm2  # noqa: E402
from lm_folders import FOLDERS, fixture_config, write_folder  # noqa: E402
from lm_models import transformers_model  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
# Groups of 64 and words of 3-bit codes divide them; mlx-lm scales Gemma's embeddings by the root of
# the hidden size in bfloat16, where that of 256 is exact.
SIZES = {"hidden_size": 256, "intermediate_size": 192}


@pytest.fixture
def small(tmp_path, tokenizer):
    """Writes a small model as a folder: its path, and transformers' model of the same weights."""

    def write(name, kind="llama", **config):
        model = transformers_model(kind, **SIZES)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        exact = write_folder(tmp_path / "model", name, json.loads(model.config.to_json_string()) | config, weights)
        tokenizer.save_pretrained(tmp_path / "model")
        model.load_state_dict({key: torch.from_numpy(value) for key, value in exact.items()})
        return tmp_path / "model", model

    return write


def assert_close(ours, theirs) -> None:
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    found = np.array(ours(mx.array(IDS)))
    # Of random models; qwen2 amplifies the order of sums most.
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_computes_what_transformers_does(name, small, tokenizer):
    path, theirs = small(name)
    ours, loaded = mxd.lm.load(path, dtype=mx.float32)
    assert_close(ours, theirs)
    block = ours.model.layers[0]
    assert isinstance(block.mlp.up_proj, PackedLinear)
    assert block.mlp.up_proj.weight.format.family in ("gptq", "awq", "compressed_tensors")
    # Of another type than the activations: stays as it is.
    assert isinstance(ours.model.embed_tokens, PackedEmbedding)
    assert ours.model.embed_tokens.weight.format.name == "f16"
    assert loaded.encode("the rain") == tokenizer.encode("the rain")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3", "llama 3.1"])
def test_other_architectures(kind, small):
    path, theirs = small("gptq", kind)
    assert_close(mxd.lm.load(path, dtype=mx.float32)[0], theirs)


def test_activations_of_the_folders_own_type(small):
    path, _ = small("awq")
    model, _ = mxd.lm.load(path, dtype=mx.float16)
    assert not isinstance(model.model.embed_tokens, PackedEmbedding)
    assert model(mx.array(IDS)).dtype == mx.float16


def test_an_unknown_architecture_is_named(small):
    path, _ = small("gptq", model_type="hyena")
    with pytest.raises(mxd.FormatError, match=r"^model_type: found 'hyena', expected one of .*\bllama\b.*\bqwen3\b"):
        mxd.lm.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_pipe_is_not_read(name, tmp_path):
    """mlx-lm would wait for it for ever."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(mxd.FormatError, match=f"{name}: found a folder or a device"):
        folder.config(tmp_path)


def test_a_config_without_architecture(small):
    path, _ = small("gptq", model_type=None)
    with pytest.raises(mxd.FormatError, match=r"model_type: found None, expected one of"):
        mxd.lm.load(path)


def test_layers_that_mlx_lm_joins_are_refused(small, monkeypatch):
    from mlx_lm.models.llama import Model

    def joined(self, weights):
        names = [f"model.layers.0.mlp.{way}_proj.weight" for way in ("gate", "up")]
        return weights | {names[0]: mx.concatenate([weights.pop(name) for name in names])}

    monkeypatch.setattr(Model, "sanitize", joined)
    path, _ = small("gptq")
    with pytest.raises(mxd.FormatError, match=r"gate_proj\.weight: found packed layers that mlx-lm's model joins"):
        mxd.lm.load(path)


@pytest.mark.parametrize("lost", ["model.norm.weight", "model.layers.1.input_layernorm.weight"])
def test_a_missing_tensor_is_named(lost, small):
    path, _ = small("gptq")
    tensors = mx.load(str(path / "model.safetensors"))
    del tensors[lost]
    mx.save_safetensors(str(path / "model.safetensors"), tensors)
    with pytest.raises(mxd.FormatError, match=f"^{lost}: not found"):
        mxd.lm.load(path)


def test_a_tensor_too_many_is_named(small):
    path, _ = small("gptq")
    tensors = mx.load(str(path / "model.safetensors"))
    mx.save_safetensors(str(path / "model.safetensors"), tensors | {"model.layers.9.norm.weight": mx.zeros(3)})
    with pytest.raises(mxd.FormatError, match=r"^model.layers.9.norm.weight: not a weight of mlx-lm's model"):
        mxd.lm.load(path)


@pytest.mark.full
@pytest.mark.parametrize("name", FOLDERS)
def test_smollm2_answers_like_its_unpacked_self(name, tmp_path, capsys):
    file = smollm2.model_file()
    path = tmp_path / "model"
    exact = write_folder(path, name, fixture_config(name), smollm2.unpacked(file))
    mxd.lm.load(file)[1].save_pretrained(path)
    model, tokenizer = mxd.lm.load(path, dtype=mx.float32)
    expected = smollm2.reference(exact)
    difference = smollm2.assert_same_answers(model, tokenizer, expected)
    ours, theirs = smollm2.perplexities(model, tokenizer, expected)
    with capsys.disabled():
        print(f"\nSmolLM2 {name}: largest difference of logits {difference:.2g}, perplexity {ours:.4g}")
    assert f"{ours:.4g}" == f"{theirs:.4g}"
