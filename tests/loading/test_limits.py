"""The largest tables that are read: opening takes at most 64 MB beyond the file's size, and seconds."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import pytest
from gguf_bytes import gguf_bytes

from mlx_dequant.loading import GGUFFile
from mlx_dequant.loading.safetensors import SafetensorsFile

ROOM = 64 << 20


def gguf_tensors() -> bytes:
    return gguf_bytes({f"{number:06d}": (0, (0,), b"") for number in range(1 << 16)})


def gguf_keys() -> bytes:
    return gguf_bytes({}, {f"{number:06d}": "" for number in range(1 << 16)})


def gguf_strings() -> bytes:
    return gguf_bytes({}, {"a": [f"{number % 100:02d}" for number in range(1 << 20)]})


def safetensors_rows() -> bytes:
    row = {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}
    text = json.dumps({f"model.layers.{number}.self_attn.q_proj.qweight": row for number in range(84_000)}).encode()
    return struct.pack("<Q", len(text)) + text


def gguf_open(path) -> None:
    dict(GGUFFile(path).metadata)


@pytest.mark.full
@pytest.mark.parametrize(
    ("write", "read"),
    [
        (gguf_tensors, gguf_open),
        (gguf_keys, gguf_open),
        (gguf_strings, gguf_open),
        (safetensors_rows, SafetensorsFile),
    ],
    ids=lambda call: call.__name__,
)
def test_the_largest_tables(tmp_path, write, read):
    path = tmp_path / "model"
    path.write_bytes(write())
    start = time.process_time()
    read(path)
    assert time.process_time() - start < 5
    tracemalloc.start()
    try:
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ROOM + path.stat().st_size, f"{peak} bytes"
