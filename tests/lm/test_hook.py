"""mlx-lm's own functions open our checkpoints, and everything else as before."""

from __future__ import annotations

import json
import shutil
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_dequant as mxd
from mlx_dequant.lm import commands, source
from mlx_dequant.nn import PackedLinear
from mlx_dequant.ops.operand import SHARED

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_folders import write_folder  # noqa: E402
from lm_models import transformers_model, write_gguf  # noqa: E402
from mlx_lm import fuse, utils  # noqa: E402

IDS = mx.array([[3, 1, 4, 1, 5, 9]])
CONFIG = {"hidden_size": 256, "intermediate_size": 192}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A GGUF file in a folder, a GPTQ folder, and a folder in MLX's own format."""
    folder = tmp_path_factory.mktemp("models")
    theirs = transformers_model("llama", **CONFIG)
    (folder / "file").mkdir()
    write_gguf(folder / "file" / "model.gguf", "llama", theirs)
    weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
    write_folder(folder / "gptq", "gptq", json.loads(theirs.config.to_json_string()), weights)
    model, tokenizer = mxd.lm.load(folder / "file" / "model.gguf")
    tokenizer.save_pretrained(folder / "gptq")
    nn.quantize(model, 64, 4)
    config = json.loads(theirs.config.to_json_string()) | {"quantization": {"group_size": 64, "bits": 4}}
    utils.save_model(folder / "mlx", model)
    utils.save_config(config, folder / "mlx" / "config.json")
    tokenizer.save_pretrained(folder / "mlx")
    return folder


@pytest.fixture
def hook():
    before = mlx_lm.load
    mxd.lm.install()
    yield
    mxd.lm.uninstall()
    assert mlx_lm.load is before


@pytest.mark.parametrize("name", ["file/model.gguf", "file", "gptq"])
def test_load_opens_what_we_open(name, models, hook):
    model, tokenizer, config = mlx_lm.load(str(models / name), return_config=True, lazy=True)
    expected, expected_tokenizer = mxd.lm.load(models / name)
    assert isinstance(model.layers[0].mlp.up_proj, PackedLinear)
    assert mx.array_equal(model(IDS), expected(IDS))
    assert tokenizer.encode("the rain") == expected_tokenizer.encode("the rain")
    assert tokenizer.eos_token_ids == expected_tokenizer.eos_token_ids
    assert config["model_type"] == "llama"
    json.dumps(config)


def test_other_folders_are_opened_by_mlx_lm(models, hook):
    model, _ = mlx_lm.load(models / "mlx")
    assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    with pytest.raises(FileNotFoundError):
        mlx_lm.load(str(models))


def test_without_the_hook_nothing_is_changed(models):
    mxd.lm.install()
    mxd.lm.uninstall()
    assert not mxd.lm.installed()
    with pytest.raises(Exception, match=r"config.json"):
        mlx_lm.load(str(models / "file"))


def test_who_imported_functions_before_has_them_too(hook):
    from mlx_lm import share

    assert share.hf_repo_to_path is utils.hf_repo_to_path
    assert fuse.dequantize_model is utils.dequantize_model
    assert sys.modules["mlx_lm"].load is utils.load
    assert {name for name, value in vars(utils).items() if hasattr(value, "__wrapped__")} >= {
        *("_download", "load_model", "load_tokenizer", "hf_repo_to_path", "create_model_card", "dequantize_model")
    }


def test_install_twice_is_undone_once(hook):
    mxd.lm.install(mx.float16)
    assert utils.load_model.__wrapped__.__module__ == utils.__name__
    assert not hasattr(utils.load_model.__wrapped__, "__wrapped__")
    mxd.lm.uninstall()
    assert not hasattr(utils.load_model, "__wrapped__")


def test_parameters_of_load(models, hook):
    path = models / "file" / "model.gguf"
    template = "{{ messages[0].content }}!"
    _, tokenizer = mlx_lm.load(path, tokenizer_config={"chat_template": template, "eos_token": "h"})
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a!"
    assert tokenizer.eos_token == "h"
    model, _, config = mlx_lm.load(path, model_config={"rope_theta": 77.0}, return_config=True)
    assert config["rope_theta"] == 77.0
    assert not mx.allclose(model(IDS), mxd.lm.load(path)[0](IDS))
    with pytest.raises(mxd.FormatError, match=r"^quantize_activations: found True, expected none with packed weights"):
        mlx_lm.load(path, model_config={"quantize_activations": True})


def test_the_type_of_activations(models):
    mxd.lm.install(mx.float16)
    try:
        model, _ = mlx_lm.load(models / "file" / "model.gguf")
    finally:
        mxd.lm.uninstall()
    assert model(IDS).dtype == mx.float16
    with pytest.raises(mxd.FormatError, match="dtype: found"):
        mxd.lm.install(mx.int8)
    assert not mxd.lm.installed()


def test_another_mlx_lm_is_refused(monkeypatch):
    monkeypatch.delattr(utils, "load_model")
    with pytest.raises(mxd.FormatError, match=r"^mlx_lm.utils: found no load_model, expected what"):
        mxd.lm.install()
    assert not mxd.lm.installed()


def test_a_folder_of_gguf_files(tmp_path, models):
    for name in ("a.gguf", "mmproj-a.gguf"):
        shutil.copy(models / "file" / "model.gguf", tmp_path / name)
    (tmp_path / "._a.gguf").write_bytes(b"macOS keeps attributes here")
    assert source.only_gguf(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b-00001-of-00002.gguf").touch()
    (tmp_path / "b-00002-of-00002.gguf").touch()
    with pytest.raises(mxd.FormatError, match=r"found a.gguf, b-00001-of-00002.gguf as GGUF models, expected one"):
        source.only_gguf(tmp_path)
    (tmp_path / "a.gguf").unlink()
    assert source.only_gguf(tmp_path).name == "b-00001-of-00002.gguf"
    (tmp_path / "model.safetensors").touch()
    assert source.only_gguf(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, True),
        ({"quantization_config": {"quant_method": "awq"}}, True),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, True),
        ({"quantization_config": {"quant_method": "intel/auto-round"}}, True),
        ({"quantization_config": {"quant_method": "mlx-dequant"}}, True),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, True),
        ({"quantization_config": {"quant_method": "mxfp4"}}, False),
        ({"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}, False),
        ({}, False),
    ],
)
def test_which_folders_are_ours(config, ours, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert source.is_ours(tmp_path) is ours


def test_a_quantize_config_beside(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 128, "desc_act": false}')
    assert source.is_ours(tmp_path)


def test_names_of_the_hub():
    assert source.split("a/b") == ("a/b", None)
    assert source.split("a/b:c/d.Q4_K.GGUF") == ("a/b", "c/d.Q4_K.GGUF")


@pytest.mark.parametrize("command", ["perplexity", "lora"])
def test_commands_that_only_ask_share_products(command, models, monkeypatch):
    def main():
        model, _ = mlx_lm.load(str(models / "gptq"))
        asked.append(SHARED in model.layers[0].mlp.up_proj.weight.matrix.cache)

    asked = []
    monkeypatch.setattr("mlx_lm.cli.main", main)
    commands.run(command, [])
    assert asked == [command == "perplexity"]
