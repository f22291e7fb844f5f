"""Folders for the loader's tests, put together from the group sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from support import assert_same, bits, group_tensors

DOWN = "model.layers.0.mlp.down_proj"
KEY = "model.layers.0.self_attn.k_proj"


def module(name: str, group_set: str) -> dict[str, mx.array]:
    """The tensors of a group set, `expected` too, as those of the module `name`."""
    return {f"{name}.{part}": array for part, array in group_tensors(group_set).items()}


def write_folder(path: Path, tensors: dict[str, mx.array], quantization: Any, name: str = "model.safetensors") -> Path:
    path.mkdir(exist_ok=True)
    mx.save_safetensors(str(path / name), tensors)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))
    return path


def assert_decodes(checkpoint, name: str) -> None:
    """The module `name` unpacks to what its tool unpacked, stored beside it as `.expected` [out, in]."""
    weight, expected = checkpoint.weights[name], checkpoint.weights[f"{name}.expected"]
    found = weight.dequantize()
    if weight.format.family != "compressed_tensors":
        found = found.T
    assert found.dtype == expected.dtype
    assert_same(found, bits(expected), name)


def write_tensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file, by hand: NumPy has no float8. `tensors` is (type, array of the file's bytes) by name."""
    header, data = {}, b""
    for name, (kind, array) in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        ends = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
