"""Tensors beyond 2^31 elements and 2^32 bytes of a sparse file: what lies behind them is read right."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from gguf_bytes import gguf_bytes
from support import assert_same, bits

import mlx_dequant as mxd
from mlx_dequant.loading import GGUFFile
from mlx_dequant.loading.safetensors import SafetensorsFile

# 2^32 + 2^31 weights of Q8_0: 6.4 GiB.
ROWS, COLUMNS = 3 << 15, 1 << 16
ROW = COLUMNS // 32 * 34
NEAR = np.random.default_rng(0).integers(0, 256, (2, 34), np.uint8)
NEAR[:, :2] = np.array([0.5, -2], np.float16)[:, None].view(np.uint8)  # scales


def sparse(path, head: bytes, size: int, *parts: tuple[int, bytes]):
    """A file of `size` bytes that begins with `head` and has `parts` at their offsets; the rest takes no room."""
    with path.open("wb") as file:
        file.write(head)
        for at, part in parts:
            file.seek(at)
            file.write(part)
        file.truncate(size)
    if path.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("this file system has no sparse files")
    return path


def dense(blocks: np.ndarray) -> np.ndarray:
    with mxd.use_backend("reference"):
        return bits(mxd.GGUFWeight(blocks, "Q8_0").dequantize(mx.float32))


@pytest.mark.usefixtures("host")
def test_gguf(tmp_path):
    whole = gguf_bytes({"large": (8, (ROWS, COLUMNS), b""), "near": (8, (2, 32), NEAR.tobytes())})
    start, at = whole.index(NEAR.tobytes()), whole.index(b"near") + len("near") + 4 + 2 * 8 + 4  # its offset
    behind = ROWS * ROW
    assert behind % 32 == 0 and behind > 1 << 32
    head = whole[:at] + behind.to_bytes(8, "little") + whole[at + 8 : start]
    last = start + behind - 34
    path = sparse(
        tmp_path / "model.gguf",
        head,
        start + behind + (-(-NEAR.nbytes // 32) * 32),
        (start, NEAR[0].tobytes()),
        (last, NEAR[1].tobytes()),
        (start + behind, NEAR.tobytes()),
    )
    file = GGUFFile(path)
    assert file.tensors["large"].shape == (ROWS, COLUMNS)
    blocks = file.blocks("large")
    assert blocks.size > 1 << 32
    ends = mxd.GGUFWeight(np.stack([blocks[0, :34], blocks[-1, -34:]]), "Q8_0")
    assert_same(ends.dequantize(mx.float32), dense(NEAR))
    assert_same(mxd.load(path).weights["near"].dequantize(mx.float32), dense(NEAR))


def test_safetensors(tmp_path):
    values, end = np.arange(6, dtype=np.float32), (1 << 32) + (1 << 16)
    rows = {
        "large": {"dtype": "U8", "shape": [(1 << 16) + 1, 1 << 16], "data_offsets": [0, end]},
        "near": {"dtype": "F32", "shape": [2, 3], "data_offsets": [end, end + values.nbytes]},
    }
    text = json.dumps(rows).encode()
    start = 8 + len(text)
    path = sparse(
        tmp_path / "model.safetensors",
        len(text).to_bytes(8, "little") + text,
        start + end + values.nbytes,
        (start + end, values.tobytes()),
    )
    file = SafetensorsFile(path)
    assert np.array_equal(np.array(file.read("near")), values.reshape(2, 3))
    assert file.tensors["large"].nbytes == end
