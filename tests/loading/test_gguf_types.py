"""Tensors of a GGUF file that are no weights, have no reader, or lie in another byte order."""

from __future__ import annotations

import struct

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf_bytes import gguf_bytes
from support import assert_same, bits, gguf_fixture

import mlx_dequant as mxd
from mlx_dequant.loading import GGUFFile

DENSE = np.arange(8, dtype=np.float32).reshape(2, 4)
F32 = (0, (2, 4), DENSE.tobytes())


def opened(path, tensors, metadata=None):
    (path / "model.gguf").write_bytes(gguf_bytes(tensors, metadata))
    return mxd.load(path / "model.gguf").weights


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (4, "found type Q4_2 .*removed from ggml; Ollama"),
        (5, "found type Q4_3 .*removed"),
        (9, "found type Q8_1 .*activations"),
        (31, "found type Q4_0_4_4 .*removed from ggml.*Q4_0 file"),
        (36, "found type IQ4_NL_4_4 .*I2_S"),
        (139, "found type 139, expected one of F32, "),
    ],
)
def test_a_type_without_a_reader_closes_only_its_tensor(tmp_path, number, message):
    weights = opened(tmp_path, {"a": F32, "odd": (number, (1, 256), bytes(144)), "b": F32})
    assert list(weights) == ["a", "odd", "b"]
    assert_same(weights["a"], bits(DENSE))
    assert_same(weights["b"], bits(DENSE))
    with pytest.raises(mxd.FormatError, match=f"^model.gguf: tensor 'odd': {message}"):
        weights["odd"]
    assert GGUFFile(tmp_path / "model.gguf").tensors["odd"].nbytes == 160


@pytest.mark.parametrize(
    ("number", "kind"), [(24, np.int8), (25, np.int16), (26, np.int32), (27, np.int64), (28, np.float64)]
)
def test_integers_and_float64_are_arrays(tmp_path, number, kind):
    values = np.array([[-3, 0, 100]]).astype(kind) / (kind(7) if kind is np.float64 else kind(1))
    found = opened(tmp_path, {"w": (number, values.shape, values.astype(kind).tobytes())})["w"]
    assert str(found.dtype) == f"mlx.core.{np.dtype(kind).name}"
    assert found.tolist() == values.astype(kind).tolist()


def test_a_tensor_of_no_length(tmp_path):
    weights = opened(tmp_path, {"a": F32, "mark": (0, (0,), b""), "w": (8, (0, 32), b"")})
    assert weights["mark"].shape == (0,)
    assert weights["w"].dequantize().shape == (0, 32)
    assert_same(weights["a"], bits(DENSE))


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_k", "q6_k", "mxfp4"])
def test_a_big_endian_file(tmp_path, name):
    halves = {"q4_0": [0], "q8_0": [0], "q4_k": [0, 2], "q6_k": [208], "mxfp4": []}[name]
    blocks, expected = gguf_fixture(name)["real"]
    form = mxd.formats()[name]
    content = np.array(blocks).reshape(-1, form.bytes).copy()
    for at in halves:
        content[:, at : at + 2] = content[:, at : at + 2][:, ::-1]
    shape = expected.shape
    header = b"GGUF" + struct.pack(">IQQ", 3, 2, 1)
    header += struct.pack(">Q", 1) + b"k" + struct.pack(">IIQ3h", 9, 3, 3, 1, -2, 300)
    size = -(-content.size // 32) * 32
    header += struct.pack(">Q", 1) + b"w" + struct.pack(">I2QIQ", 2, shape[1], shape[0], form.ggml_type, 0)
    header += struct.pack(">Q", 1) + b"a" + struct.pack(">I2QIQ", 2, 4, 2, 0, size)
    header += bytes(-len(header) % 32)
    body = content.tobytes().ljust(size, b"\0") + DENSE.astype(">f4").tobytes()
    (tmp_path / "big.gguf").write_bytes(header + body)
    checkpoint = mxd.load(tmp_path / "big.gguf")
    assert checkpoint.metadata["k"].tolist() == [1, -2, 300]
    assert_same(checkpoint.weights["a"], bits(DENSE))
    assert_same(checkpoint.weights["w"].dequantize(mx.float32), bits(expected), name)


def test_a_big_endian_type_of_unknown_order_closes_itself(tmp_path):
    header = b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + struct.pack(">Q", 1) + b"w" + struct.pack(">IQIQ", 1, 32, 6, 0)
    (tmp_path / "big.gguf").write_bytes(header + bytes(-len(header) % 32) + bytes(22))
    weights = mxd.load(tmp_path / "big.gguf").weights
    with pytest.raises(mxd.FormatError, match="tensor 'w': found Q5_0 in a big-endian file"):
        weights["w"]


def test_diffusion_models_fold_tensors_into_rows(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "flux")
    blocks, expected = gguf_fixture("q8_0")["real"]
    shapes = {
        "whole": (expected.size // 64, 64),
        "odd": (expected.size // 16, 4, 4),
        "plain": (2, 2, 2, 1, 1),
        "bad": (3,),
    }
    for name, shape in shapes.items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
        if name in ("plain", "bad"):
            writer.add_tensor(name, DENSE)
        else:
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = mxd.load(tmp_path / "model.gguf").weights
    assert isinstance(weights["whole"], mxd.GGUFWeight)
    assert_same(weights["whole"].dequantize(mx.float32), bits(expected.reshape(shapes["whole"])))
    assert_same(weights["odd"], bits(expected.reshape(shapes["odd"])))
    assert_same(weights["plain"], bits(DENSE.reshape(shapes["plain"])))
    with pytest.raises(mxd.FormatError, match=r"orig_shape\.bad: found .* expected the lengths of 8 weights"):
        weights["bad"]
