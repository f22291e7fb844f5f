"""`mlx-dequant info FOLDER`: a folder's layers by format, and what cannot be read by name."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
from folders import module, write_folder, write_tensors
from support import group_settings

import mlx_dequant as mxd
from mlx_dequant.cli import main

GPTQ = "gptq_w4_g128_sym_v1_4l"


def described(path, capsys):
    assert main(["info", str(path), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_layers_are_counted_by_kind(tmp_path, capsys):
    tensors = {"model.norm.weight": mx.ones(3), "lm_head.weight": mx.ones((4, 5), mx.float16)}
    for name in ("a", "b"):
        tensors |= {key: array for key, array in module(name, GPTQ).items() if not key.endswith(".expected")}
    path = write_folder(tmp_path / "model", tensors, group_settings(GPTQ))
    result, err = described(path, capsys)
    weight = mxd.load(path).weights["a"]
    shape = [weight.out_features, weight.in_features]
    packed, *plain = result["kinds"]
    assert (result["format"], result["model_type"]) == ("gptq", "llama")
    assert (packed["type"], packed["shape"], packed["names"]) == ("GPTQ 4-bit", shape, ["a", "b"])
    assert packed["weights"] == 2 * shape[0] * shape[1] and packed["unread"] == ""
    assert packed["bytes"] == 2 * sum(array.nbytes for key, array in tensors.items() if key.startswith("a."))
    assert {row["type"]: (row["count"], row["weights"], row["bytes"]) for row in plain} == {
        "F32": (1, 3, 12),
        "F16": (1, 20, 40),
    }
    assert "llama, gptq" in err and "cannot be read" not in err


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    codes, scale = np.zeros((2, 32), np.uint8), np.ones(1, np.float32)
    good = {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", scale)}
    tensors = {f"a.{part}": value for part, value in good.items()}
    for number in range(7):
        bad = {**good, "pre_quant_scale": ("F32", scale)}
        tensors |= {f"b{number}.\x1b[2J.{part}": value for part, value in bad.items()}
    tensors["c"] = ("F8_E5M2", codes)
    write_tensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "modelopt"}}))
    result, err = described(tmp_path, capsys)
    reasons = {row["names"][0]: row["unread"] for row in result["kinds"]}
    assert reasons["a"] == "" and reasons["b0.\x1b[2J"].startswith("found pre_quant_scale, a scale of inputs")
    assert len(next(row for row in result["kinds"] if row["names"][0].startswith("b0"))["names"]) == 7
    lines = [line for line in err.splitlines() if "cannot be read: " in line]
    assert lines[0].startswith("b0.") and " and 2 more cannot be read: found pre_quant_scale" in lines[0]
    assert lines[1].startswith("c cannot be read: found F8_E5M2, expected one of ")
    assert "no model_type, modelopt" in err and "\x1b" not in err


def test_a_folder_of_our_own(tmp_path, capsys):
    weight = mxd.GGUFWeight(mx.zeros((64, 34), mx.uint8), "Q8_0")
    layer = mxd.nn.PackedLinear(weight, mx.zeros(64))
    layer.save_weights(str(tmp_path / "model.safetensors"))
    tensors = mx.load(str(tmp_path / "model.safetensors"))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {f"up.{key}": array for key, array in tensors.items()})
    result, _ = described(tmp_path, capsys)
    assert result["format"] == "mlx-dequant"
    assert [(row["type"], row["shape"], row["names"]) for row in result["kinds"]] == [
        ("Q8_0", [64, 32], ["up"]),
        ("F32", None, ["up.bias"]),
    ]


def test_a_folder_without_quantization_says_what_to_do(tmp_path, capsys):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.ones(2)})
    assert main(["info", str(tmp_path)]) == 2
    assert "mlx_lm.load reads models that are not quantized" in capsys.readouterr().err
