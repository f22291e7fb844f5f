"""Folders as the tools write them: which files and tensors a checkpoint is made of, and what is refused."""

from __future__ import annotations

import json
import warnings

import mlx.core as mx
import pytest
from folders import DOWN, KEY, assert_decodes, module, write_folder
from support import FIXTURES, GROUP_SETS, group_settings

import mlx_dequant as mxd

GPTQ = "gptq_w4_g64_asym_v1_4l"
FLAT = {"bits": 4, "group_size": 64, "desc_act": False, "sym": False}


@pytest.fixture
def tensors():
    return module(DOWN, GPTQ) | module(KEY, GPTQ) | {"model.norm.weight": mx.ones(8, mx.bfloat16)}


@pytest.mark.parametrize("name", GROUP_SETS)
def test_every_set_decodes_as_its_tool_does(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = mxd.load(FIXTURES / "groups" / name)
    assert checkpoint.format == group_settings(name)["quant_method"]
    assert checkpoint.config["model_type"] == "llama"
    packed = [name for name in checkpoint.weights if f"{name}.expected" in checkpoint.weights]
    assert packed
    assert len(checkpoint.weights) == 2 * len(packed)
    for module_name in packed:
        assert_decodes(checkpoint, module_name)


def test_names_are_modules_and_tensors(tmp_path, tensors):
    checkpoint = mxd.load(write_folder(tmp_path, tensors, {"quant_method": "gptq", **FLAT}))
    assert set(checkpoint.weights) == {DOWN, KEY, f"{DOWN}.expected", f"{KEY}.expected", "model.norm.weight"}
    assert isinstance(checkpoint.weights[DOWN], mxd.GPTQWeight)
    assert checkpoint.weights["model.norm.weight"].dtype == mx.bfloat16
    with pytest.raises(KeyError):
        checkpoint.weights["model.norm"]


def test_a_tensor_is_read_when_asked_for(tmp_path, tensors):
    tensors["other.expected"] = mx.ones(1)
    tensors |= {key.replace(DOWN, "other"): array for key, array in tensors.items() if key.startswith(DOWN)}
    tensors["other.scales"] = mx.ones((1, 1))
    checkpoint = mxd.load(write_folder(tmp_path, tensors, {"quant_method": "gptq", **FLAT}))
    assert_decodes(checkpoint, DOWN)
    with pytest.raises(mxd.FormatError, match=r"module 'other': scales: found shape \(1, 1\)"):
        checkpoint.weights["other"]


def test_settings_beside_config_json(tmp_path, tensors):
    write_folder(tmp_path, tensors, None, "gptq_model-4bit-64g.safetensors")
    (tmp_path / "quantize_config.json").write_text(json.dumps(FLAT))
    assert_decodes(mxd.load(tmp_path), DOWN)
    (tmp_path / "config.json").unlink()
    checkpoint = mxd.load(str(tmp_path))
    assert checkpoint.config == {}
    assert_decodes(checkpoint, DOWN)


def test_autoawqs_own_file(tmp_path):
    write_folder(tmp_path, module(DOWN, "awq_w4_g64_gemm_4l"), None)
    settings = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    (tmp_path / "quant_config.json").write_text(json.dumps(settings))
    assert_decodes(mxd.load(tmp_path), DOWN)


def shard(path, tensors, **listed):
    """Two files, and an index whose map `listed` changes: None takes a tensor out."""
    names = sorted(tensors)
    files = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, members in files.items():
        write_folder(path, {name: tensors[name] for name in members}, {"quant_method": "gptq", **FLAT}, file)
    index = {name: file for file, members in files.items() for name in members} | listed
    index = {name: file for name, file in index.items() if file is not None}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_many_files_with_an_index(tmp_path, tensors):
    checkpoint = mxd.load(shard(tmp_path, tensors, **{"model.norm.weight": None}))
    assert "model.norm.weight" not in checkpoint.weights
    assert_decodes(checkpoint, DOWN)
    assert_decodes(checkpoint, KEY)


def test_many_files_without_an_index(tmp_path, tensors):
    (shard(tmp_path, tensors) / "model.safetensors.index.json").unlink()
    (tmp_path / "._one.safetensors").write_bytes(b"macOS keeps attributes here")
    assert_decodes(mxd.load(tmp_path), KEY)
    mx.save_safetensors(str(tmp_path / "zzz.safetensors"), {"model.norm.weight": mx.ones(8)})
    with pytest.raises(mxd.FormatError, match=r"'model.norm.weight': found in two.safetensors and zzz.safetensors"):
        mxd.load(tmp_path)


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/secret.safetensors", "a\\b.safetensors", "\0.safetensors", "x.bin", 7, ""]
)
def test_an_index_names_files_of_the_folder_only(tmp_path, tensors, file):
    mx.save_safetensors(str(tmp_path / "secret.safetensors"), {"model.norm.weight": mx.ones(8)})
    (tmp_path / "folder").mkdir()
    with pytest.raises(mxd.FormatError, match=r"index\.json: tensor 'model.norm.weight': found file"):
        mxd.load(shard(tmp_path / "folder", tensors, **{"model.norm.weight": file}))


def test_an_index_that_does_not_fit_its_files(tmp_path, tensors):
    with pytest.raises(mxd.FormatError, match=r"tensor 'model.norm.weight': not found in one.safetensors"):
        mxd.load(shard(tmp_path, tensors, **{"model.norm.weight": "one.safetensors"}))
    with pytest.raises(FileNotFoundError, match=r"three.safetensors"):
        mxd.load(shard(tmp_path, tensors, extra="three.safetensors"))
    for index in ("[]", "{}", '{"weight_map": []}', "{"):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(mxd.FormatError, match=r"^model.safetensors.index.json: found"):
            mxd.load(tmp_path)


REFUSED = [
    ({"quant_method": "exl2", "bits": 4.0}, "'exl2', expected 'gptq' or 'awq' or 'compressed-tensors'"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
    ({"bits": 4}, "quant_method: found None"),
    ({"quant_method": "awq", "version": "other", **FLAT}, "AWQ version: found 'other', expected 'gemm' or"),
    ({"quant_method": "gptq", "checkpoint_format": "other", **FLAT}, "checkpoint_format: found 'other'"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size: found \[128\], expected two lengths"),
    ({"quant_method": "fp8"}, "found no module packed as fp8"),
    ({"quant_method": "gptq", "pack_dtype": "int64", **FLAT}, "pack_dtype: found 'int64'"),
    ({"quant_method": "gptq", **FLAT, "bits": "4"}, "bits: found '4', expected an integer"),
    ({"quant_method": "gptq", "bits": 4}, "group_size: found None, expected an integer"),
    ({"quant_method": "gptq", **FLAT, "dynamic": []}, "found no module packed as gptq"),
    ({"quant_method": "gptq", **FLAT, "dynamic": {"+:(": {}}}, r"dynamic: found '\(', expected a regular"),
    (
        {"quant_method": "auto-round", "packing_format": "auto_round:fp8", **FLAT},
        "packing_format: found 'auto_round:fp8'",
    ),
    ({"quant_method": "auto-round", "data_type": "mx_fp", **FLAT}, "data_type: found 'mx_fp'"),
    ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format: found 'marlin-24'"),
    (
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "sparsity_config": {"format": "sparse-24"}},
        "sparsity_config.format: found 'sparse-24'",
    ),
    (
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "transform_config": {"config_groups": [1]}},
        "transform_config: found rotations",
    ),
]


@pytest.mark.parametrize(("quantization", "message"), REFUSED)
def test_other_formats_are_refused_by_name(tmp_path, quantization, message):
    write_folder(tmp_path, {"model.norm.weight": mx.ones(8)}, quantization)
    with pytest.raises(mxd.FormatError, match=f"^{tmp_path.name}: .*{message}"):
        mxd.load(tmp_path)


def test_a_folder_without_quantization_or_tensors(tmp_path):
    with pytest.raises(mxd.FormatError, match="found no quantization_config"):
        mxd.load(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4}}')
    with pytest.raises(mxd.FormatError, match="found MLX's own quantization"):
        mxd.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", **FLAT}}))
    with pytest.raises(mxd.FormatError, match="found no safetensors file"):
        mxd.load(tmp_path)


def test_a_module_that_is_not_whole(tmp_path, tensors):
    del tensors[f"{DOWN}.scales"], tensors[f"{DOWN}.qzeros"]
    with pytest.raises(mxd.FormatError, match=f"module '{DOWN}': found qweight without scales, qzeros"):
        mxd.load(write_folder(tmp_path, tensors, {"quant_method": "gptq", **FLAT}))
