"""Packed models saved by mlx-lm and converted by us: what is written is opened again, and computes the same."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from importlib import import_module

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.cli import main
from mlx_dequant.nn import PackedEmbedding, PackedLinear

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_folders import FOLDERS, write_folder  # noqa: E402
from lm_models import transformers_model, write_gguf  # noqa: E402
from mlx_lm import utils  # noqa: E402

from mlx_dequant.lm import mlx_layout  # noqa: E402
from mlx_dequant.lm.load import load_model  # noqa: E402
from mlx_dequant.lm.stock import check_own_classes  # noqa: E402
from mlx_dequant.lm.writing import Writing  # noqa: E402

IDS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
SIZES = {"hidden_size": 256, "intermediate_size": 192}
QUICK = ("gptq act-order", "awq")
OTHERS = [pytest.param(name, marks=pytest.mark.full) for name in ("gemma3", *FOLDERS) if name not in QUICK]
MODELS = ["gguf", *QUICK, *OTHERS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models by name: GGUF files of two kinds, and a folder of each method."""
    folder = tmp_path_factory.mktemp("models")
    theirs = transformers_model("llama 3.1", **SIZES)
    write_gguf(folder / "gguf", "llama 3.1", theirs)
    write_gguf(folder / "gemma3", "gemma3", transformers_model("gemma3", **SIZES), "Q4_0")
    tokenizer = mxd.lm.load(folder / "gguf")[1]
    for name in FOLDERS:
        weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
        write_folder(folder / name, name, json.loads(theirs.config.to_json_string()), weights)
        tokenizer.save_pretrained(folder / name)
    return folder


def same(model, other) -> bool:
    return bool(mx.array_equal(model(IDS), other(IDS)))


@pytest.mark.parametrize("name", MODELS)
def test_what_mlx_lm_saves_is_opened_again(name, models, tmp_path):
    mxd.lm.install()
    try:
        model, tokenizer, config = mlx_lm.load(models / name, return_config=True)
        expected = model(IDS)
        mx.eval(expected)
        utils.save(tmp_path / "saved", str(models / name), model, tokenizer, config)
        again, _ = mlx_lm.load(tmp_path / "saved")
    finally:
        mxd.lm.uninstall()
    assert mx.array_equal(again(IDS), expected)
    loaded, words = mxd.lm.load(tmp_path / "saved")
    assert mx.array_equal(loaded(IDS), expected)
    assert words.eos_token_ids == tokenizer.eos_token_ids
    with pytest.raises(RuntimeError, match="PackedLinear: its arrays were given up"):
        model.layers[0].mlp.up_proj(mx.zeros((1, 256)))
    checkpoint = mxd.load(tmp_path / "saved")
    assert checkpoint.format == "mlx-dequant"
    source = loaded.layers[1].self_attn.q_proj.weight
    found = checkpoint.weights["model.layers.1.self_attn.q_proj"]
    assert mx.array_equal(found.dequantize(mx.float32), source.dequantize(mx.float32))
    with pytest.raises(ValueError, match="not in model"):
        mlx_lm.load(tmp_path / "saved")


def test_weights_alone_need_no_config(models, tmp_path):
    model, _ = mxd.lm.load(models / "gguf")
    utils.save_model(tmp_path, model)
    found = mxd.load(tmp_path).weights["model.embed_tokens"]
    assert mx.array_equal(found.dequantize(mx.float32), model.model.embed_tokens.weight.dequantize(mx.float32))


def test_a_saved_model_fits_only_its_own_formats(models, tmp_path):
    model, _ = mxd.lm.load(models / "gguf")
    model.save_weights(str(tmp_path / "weights.safetensors"))
    model.load_weights(str(tmp_path / "weights.safetensors"))
    arrays = mx.load(str(tmp_path / "weights.safetensors"))
    name = "model.layers.0.mlp.up_proj.mlx_dequant"
    text = bytes(np.asarray(arrays[name])).decode().replace("q8_0", "q4_0")
    with pytest.raises(mxd.FormatError, match=r"mlx_dequant: found .*q4_0.* expected .*q8_0"):
        model.load_weights([(name, mx.array(np.frombuffer(text.encode(), np.uint8)))], strict=False)


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_folder(name, models, tmp_path):
    rows = mxd.lm.convert(models / name, tmp_path / "out")
    assert {row.error for row in rows} == {0}
    again, tokenizer = mxd.lm.load(tmp_path / "out")
    first, words = mxd.lm.load(models / name)
    assert same(again, first)
    assert tokenizer.encode("the rain") == words.encode("the rain")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}]) == words.apply_chat_template(
        [{"role": "user", "content": "a"}]
    )


@pytest.mark.parametrize("name", MODELS)
def test_mlx_lm_alone_opens_its_own_format(name, models, tmp_path):
    rows = {row.name: row for row in mxd.lm.convert(models / name, tmp_path / "out", to="mlx")}
    model, _ = mlx_lm.load(str(tmp_path / "out"))
    first, _ = mxd.lm.load(models / name)
    for layer, row in rows.items():
        ours = dict(first.named_modules())[layer].dense().weight
        theirs = dict(model.named_modules())[layer]
        dense = theirs.weight
        if row.target != "float16":
            scales = [theirs[key].astype(mx.float32) for key in ("scales", "biases")]
            dense = mx.dequantize(theirs.weight, *scales, theirs.group_size, theirs.bits)
        error = mx.abs(dense - ours).max() / mx.abs(ours).max()
        assert error.item() == pytest.approx(row.error, abs=1e-6)
        assert row.error < 2e-2
    kinds = {row.target for row in rows.values()}
    assert (kinds == {"float16"}) == (name == "gptq act-order")
    # In float32, since MLX's products of quantized float16 are inexact on a CPU.
    model.set_dtype(mx.float32)
    expected = first(IDS)
    assert mx.abs(model(IDS) - expected).max() < 3e-2 * mx.abs(expected).max()


def test_a_failure_leaves_nothing(models, tmp_path, monkeypatch):
    calls = []

    def fails(weight):
        calls.append(weight)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return mlx_layout.mlx_weight(weight)

    # `mlx_dequant.lm.convert` is the function, which has its module's name.
    monkeypatch.setattr(import_module("mlx_dequant.lm.convert"), "mlx_weight", fails)
    with pytest.raises(KeyboardInterrupt):
        mxd.lm.convert(models / "gguf", tmp_path / "out", to="mlx")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_dequant.lm.writing.SHARD", 64)
    killed = Writing(tmp_path / "out")
    killed.__enter__()
    for number in range(3):
        killed.add(f"a{number}", mx.zeros(16))
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".") and any(left.iterdir()) and not (left / "config.json").exists()
    os.close(killed._lock)  # as the system does
    with Writing(tmp_path / "out") as out:
        for number in range(3):
            out.add(f"b{number}", mx.full(16, number))
        out.finish({"model_type": "llama"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 192
    assert set(index["weight_map"]) == {"b0", "b1", "b2"}
    found = mx.load(str(tmp_path / "out" / index["weight_map"]["b2"]))
    assert found["b2"].tolist() == [2] * 16


def test_two_that_write_at_once(tmp_path):
    """Neither takes the other's files. The first one to finish has the name."""
    with Writing(tmp_path / "out") as first:
        first.add("a", mx.zeros(16))
        with pytest.raises(OSError), Writing(tmp_path / "out") as second:
            second.add("b", mx.zeros(16))
            first.finish({"model_type": "llama"})
            second.finish({"model_type": "llama"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list(mx.load(str(tmp_path / "out" / "model.safetensors"))) == ["a"]


def test_a_window_that_mlx_lms_own_class_lacks_is_refused(tmp_path):
    import lm_gguf

    lm_gguf.write_gguf(tmp_path / "model.gguf", "phi3", lm_gguf.transformers_model("phi3"))
    message = (
        r"layers.\d.self_attn: found attention that sees 8 positions, but mlx-lm's phi3 sees all: to='packed' keeps it"
    )
    with pytest.raises(mxd.FormatError, match=message):
        mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "out", to="mlx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phi3 longrope", r"layers.\d.self_attn.rope: found rotary scaling, but mlx-lm's phi3 scales otherwise"),
        ("llama", ""),  # whose scaling mlx-lm's own class has, too
        ("stablelm", ""),
        ("mistral", r"model.layers: found attention that sees 8 positions, but mlx-lm's mistral sees all"),
    ],
)
def test_what_mlx_lms_own_class_lacks_is_refused(name, message, tmp_path):
    import lm_zoo

    lm_zoo.write(tmp_path, name, 5)
    with pytest.raises(mxd.FormatError, match=message) if message else nullcontext():
        check_own_classes(*load_model(tmp_path))


def test_mlx_lm_saves_dense_delta_nets_in_transformers_order(tmp_path):
    """llama.cpp has another order, in which packed weights stay."""
    from lm_gguf_parts import model_of, write_family

    write_family(tmp_path / "model.gguf", "qwen35", model_of("qwen35"))
    mxd.lm.install()
    try:
        model, tokenizer, config = mlx_lm.load(tmp_path / "model.gguf", return_config=True)
        expected = model(IDS)
        mx.eval(expected)
        dense = utils.dequantize_model(model)
        config = {key: value for key, value in config.items() if key != "quantization_config"}
        utils.save(tmp_path / "saved", str(tmp_path / "model.gguf"), dense, tokenizer, config)
    finally:
        mxd.lm.uninstall()
    stored = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert not any("tiled" in key for key in stored.get("text_config", stored))
    found = mlx_lm.load(tmp_path / "saved")[0](IDS)
    assert np.abs(np.array(found) - np.array(expected)).max() < 5e-3 * np.abs(np.array(expected)).max()


def test_a_target_that_is_there(models, tmp_path, capsys):
    assert main(["convert", str(models / "gguf"), str(tmp_path)]) == 2
    assert "found a file or folder there, expected none" in capsys.readouterr().err


def test_the_command_says_what_became_of_each_layer(models, tmp_path, capsys):
    assert main(["convert", str(models / "awq"), str(tmp_path / "out"), "--to", "mlx", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["layers"]
    assert len(rows) == 3 * 7 + 2
    line = next(line for line in err.splitlines() if line.startswith("model.layers.0.mlp.up_proj: "))
    assert line.startswith("model.layers.0.mlp.up_proj: AWQ 4-bit to affine 4-bit, groups of 64, error ")
    assert "model.embed_tokens: F16 to float16, exact" in err


def test_mlx_lm_dequantizes_a_packed_model(models):
    model, _ = mxd.lm.load(models / "awq")
    before, exact = model(IDS), model.layers[0].mlp.up_proj.weight.dequantize(mx.float16).T
    assert utils.dequantize_model(model) is model
    assert not [layer for _, layer in model.named_modules() if isinstance(layer, PackedLinear | PackedEmbedding)]
    assert mx.array_equal(model.layers[0].mlp.up_proj.weight, exact)
    after = model(IDS)
    assert after.dtype == before.dtype == mx.float32
    assert mx.abs(after - before).max() < 5e-3 * mx.abs(before).max()  # of weights rounded to float16


def test_mlx_quantizes_a_packed_model(models):
    model, _ = mxd.lm.load(models / "gguf")
    expected = mx.dequantize(*mx.quantize(model.layers[0].mlp.up_proj.dense(mx.float16).weight, 64, 4), 64, 4)
    model, config = utils.quantize_model(model, {}, 64, 4)
    layer = model.layers[0].mlp.up_proj
    assert isinstance(layer, nn.QuantizedLinear)
    assert isinstance(model.model.embed_tokens, nn.QuantizedEmbedding)
    assert mx.array_equal(mx.dequantize(layer.weight, layer.scales, layer.biases, 64, 4), expected)
    assert config["quantization"]["bits"] == 4
