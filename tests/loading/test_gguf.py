"""Our GGUF reader finds what gguf-py's finds, in the demo model and in files written here."""

from __future__ import annotations

import gguf
import mlx.core as mx
import numpy as np
import pytest
from support import assert_same, bits, gguf_fixture

import mlx_dequant as mxd
from mlx_dequant.disk_cache import cache_folder
from mlx_dequant.loading import GGUFFile

DEMO = cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TYPES = ("q4_k", "iq2_xxs", "q8_0", "mxfp4")
SCALARS = {
    "uint8": 200,
    "int8": -100,
    "uint16": 60_000,
    "int16": -30_000,
    "uint32": 4_000_000_000,
    "int32": -2_000_000_000,
    "uint64": 2**64 - 1,
    "int64": -(2**63),
    "float32": 0.1,
    "float64": 0.1,
    "bool": True,
    "string": "naïve ▁token",
}


def assert_equals_gguf_py(path):
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    assert (ours.version, ours.alignment) == (theirs.fields["GGUF.version"].contents(), theirs.alignment)
    for key, field in fields.items():
        found, expected = ours.metadata[key], field.contents()
        found = found.tolist() if isinstance(found, np.ndarray) else found
        assert type(found) is type(expected) and found == expected, key
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info, raw = ours.tensors[tensor.name], tensor.data.view(np.uint8)
        assert info.format.ggml_type == tensor.tensor_type
        assert info.shape == tuple(tensor.shape.tolist())[::-1]
        assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert ours.blocks(tensor.name).shape == raw.shape
        assert np.array_equal(ours.blocks(tensor.name), raw), tensor.name


def write(path, alignment=None, split=0):
    """A file with every kind of value, and tensors of several types; split keys where asked."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, value in SCALARS.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_token_list(["<s>", "", "▁a", "x" * 300])
    writer.add_token_scores([0.5, -1.0, 0.0, 3.25])
    writer.add_token_types([3, 1, 1, 6])
    writer.add_array("a.flags", [True, False, True])
    writer.add_tensor("norm", np.arange(5, dtype=np.float32))
    writer.add_tensor("half", np.arange(12, dtype=np.float16).reshape(3, 4))
    writer.add_tensor("experts", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    for name in TYPES:
        blocks = gguf_fixture(name)["real"][0]
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[name.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_generated_files_equal_gguf_py(tmp_path, alignment):
    write(tmp_path / "model.gguf", alignment)
    assert_equals_gguf_py(tmp_path / "model.gguf")


def test_version_2_equals_gguf_py(path):
    content = bytearray(path.read_bytes())
    content[4:8] = (2).to_bytes(4, "little")
    path.write_bytes(content)
    assert GGUFFile(path).version == 2
    assert_equals_gguf_py(path)


def test_the_demo_model_equals_gguf_py():
    if not DEMO.is_file():
        pytest.skip("the demo model is not in the user's cache: mlx-dequant fetch-demo-model fetches it")
    assert_equals_gguf_py(DEMO)


def test_arrays_of_numbers_have_their_types(path):
    metadata = GGUFFile(path).metadata
    assert metadata["tokenizer.ggml.scores"].dtype == np.float32
    assert metadata["tokenizer.ggml.token_type"].dtype == np.int32
    assert metadata["a.flags"].dtype == bool
    assert "a.missing" not in metadata
    with pytest.raises(KeyError):
        metadata["a.missing"]


def test_blocks_are_a_view_that_cannot_be_written(path):
    blocks = GGUFFile(path).blocks("q4_k.weight")
    with pytest.raises(ValueError, match="read-only"):
        blocks[0, 0] = 1


def test_load_gives_packed_weights_and_dense_arrays(path):
    checkpoint = mxd.load(path)
    weights = checkpoint.weights
    assert (checkpoint.format, checkpoint.config) == ("gguf", {})
    assert checkpoint.metadata["general.architecture"] == "llama"
    assert list(weights) == ["norm", "half", "experts", *(f"{name}.weight" for name in TYPES)]
    for name in TYPES:
        assert isinstance(weights[f"{name}.weight"], mxd.GGUFWeight)
        assert_same(weights[f"{name}.weight"].dequantize(mx.float32), bits(gguf_fixture(name)["real"][1]), name)
    assert_same(weights["norm"], bits(np.arange(5, dtype=np.float32)))
    assert_same(weights["half"], bits(np.arange(12, dtype=np.float16).reshape(3, 4)))
    assert weights["experts"].shape == (2, 3, 4)


def test_any_part_of_a_split_file_opens_all(tmp_path, path):
    write(tmp_path / "split.gguf", split=3)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert [part.name for part in parts] == [f"split-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    whole = GGUFFile(path)
    for part in parts:
        file = GGUFFile(part)
        assert file.path == parts[0]
        assert list(file.tensors) == list(whole.tensors)
        assert file.metadata["a.string"] == SCALARS["string"]
        assert {info.part for info in file.tensors.values()} == {0, 1, 2}
        for name in file.tensors:
            assert np.array_equal(file.blocks(name), whole.blocks(name)), name


def test_a_split_file_that_is_not_whole(tmp_path):
    write(tmp_path / "split.gguf", split=3)
    first, second, third = sorted(tmp_path.glob("split-*.gguf"))
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(mxd.FormatError, match=r"split\.no: found 2, expected 1"):
        GGUFFile(first)
    second.unlink()
    with pytest.raises(FileNotFoundError, match="split-00002-of-00003"):
        GGUFFile(first)
    (tmp_path / "alone.gguf").write_bytes(content)
    with pytest.raises(mxd.FormatError, match=r"split\.count: found 3, expected 1"):
        GGUFFile(tmp_path / "alone.gguf")
    (tmp_path / "split-00004-of-00003.gguf").write_bytes(content)
    with pytest.raises(mxd.FormatError, match="found part 00004"):
        GGUFFile(tmp_path / "split-00004-of-00003.gguf")


def test_a_large_vocabulary_opens_without_its_tokens(tmp_path):
    count = 4096
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama")
    writer.add_token_list([f"▁token{index}" for index in range(count)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([1] * count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "big.gguf")
    assert "tokenizer.ggml.tokens" not in file.metadata._values
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert tokens == [f"▁token{index}" for index in range(count)]
    assert file.metadata["tokenizer.ggml.tokens"] is tokens
