"""The largest tables that are read: opening takes at most 64 MB beyond the file's size, and seconds."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from folders import KEY, write_folder
from gguf_bytes import gguf_bytes

import mlx_dequant as mxd
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


@pytest.mark.parametrize(("block", "shape"), [((2, 2**31 - 1), (4, 1)), ((2**31 - 1, 3), (1, 2)), ((2**62, 3), (1, 2))])
def test_scales_in_blocks_larger_than_the_matrix(tmp_path, block, shape):
    """The block that a config names is not allocated."""
    codes, scale = np.full((8, 6), 0x38, np.uint8), np.arange(1, 1 + max(shape), dtype=np.float32).reshape(shape)
    tensors = {f"{KEY}.weight": mx.array(codes), f"{KEY}.weight_scale_inv": mx.array(scale)}
    folder = write_folder(tmp_path / "model", tensors, {"quant_method": "fp8", "weight_block_size": list(block)})
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"dtype":"U8"', b'"dtype":"F8_E4M3"'))
    content = file.read_bytes()
    length = content.index(b"}}") + 2 - 8
    file.write_bytes(struct.pack("<Q", length) + content[8 : 8 + length] + content[-(codes.size + 4 * scale.size) :])
    tracemalloc.start()
    try:
        try:
            found = np.array(mxd.load(folder).weights[KEY].dequantize(mx.float32))
        except mxd.FormatError:
            assert max(block) > 2**31
        else:
            assert np.array_equal(found, np.repeat(np.repeat(scale, 8 // shape[0], 0), 6 // shape[1], 1))
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


def test_a_long_token_is_not_tried_for_merges(tmp_path):
    """Each of its places would be: the time grows with the square of its length."""
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
    from mlx_dequant.lm.gguf_tokenizer import tokenizer

    path = tmp_path / "model.gguf"
    keys = {"model": "llama", "tokens": ["<unk>", "a", "a" * (1 << 20)]}
    path.write_bytes(gguf_bytes({}, {f"tokenizer.ggml.{name}": value for name, value in keys.items()}))
    begin = time.process_time()
    with pytest.raises(mxd.FormatError, match="tokens: found one of 1048576 letters, expected shorter ones"):
        tokenizer(GGUFFile(path))
    assert time.process_time() - begin < 5
