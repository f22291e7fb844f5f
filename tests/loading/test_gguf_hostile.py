"""GGUF files that lie, or end early, give FormatError: no crash, no hang, no large allocation."""

from __future__ import annotations

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_dequant as mxd
from mlx_dequant.loading import GGUFFile

U32, STRING, ARRAY = 4, 8, 9
F32, Q8_0 = 0, 8


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def row(name=b"w", lengths=(4,), kind=F32, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, kind, offset)


def file(keys=(), rows=(), data=0, version=3, key_count=None, tensor_count=None) -> bytes:
    """A file of the given keys and rows, and `data` zeros; the counts may lie."""
    counts = (
        len(rows) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*keys, *rows])
    return head + b"\0" * (-len(head) % 32 + data)


def alignment(value: int) -> bytes:
    return key(b"general.alignment", U32, struct.pack("<I", value))


HUGE = 2**63
LIES = {
    "nothing": (b"", "empty file"),
    "other": (b"GGUX a file", "expected b'GGUF'"),
    "magic alone": (b"GGUF", "version: found 0 bytes left"),
    "version 1": (file(version=1), "found GGUF version 1, expected one of 2, 3"),
    "version 4": (file(version=4), "found GGUF version 4"),
    "big-endian version 4": (file(version=4 << 24), "found GGUF version 4"),
    "a zip": (b"PK\x03\x04 a zip file", "found a zip or PyTorch file, expected GGUF"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "found a git-lfs pointer, .*: run .git lfs pull"),
    "many keys": (file(key_count=HUGE), f"number of keys: found {HUGE}"),
    "many tensors": (file(tensor_count=HUGE), f"number of tensors: found {HUGE}"),
    "long key": (file([struct.pack("<Q", HUGE)], key_count=1, data=64), f"key 0: found a name of {HUGE} bytes"),
    "key past the end": (file([struct.pack("<Q", 999)], key_count=1, data=64), "key 0: found .* expected 999"),
    "key of other bytes": (file([key(b"\xff", U32, b"\0" * 4)]), "key 0: found bytes that are not UTF-8"),
    "unknown type": (file([key(b"a", 13, b"\0" * 8)]), "key 'a': found value type 13"),
    "unknown items": (file([key(b"a", ARRAY, struct.pack("<IQ", 99, 0))]), "key 'a': found value type 99"),
    "nested array": (file([key(b"a", ARRAY, struct.pack("<IQ", ARRAY, 0))]), "key 'a': found an array of arrays"),
    "long array": (file([key(b"a", ARRAY, struct.pack("<IQ", U32, HUGE))]), f"key 'a': found {HUGE}"),
    "many strings": (file([key(b"a", ARRAY, struct.pack("<IQ", STRING, HUGE))]), f"key 'a': found {HUGE}"),
    "long string": (file([key(b"a", STRING, struct.pack("<Q", HUGE))]), "key 'a': .* past the end"),
    "long strings": (file([key(b"a", ARRAY, struct.pack("<IQQQ", STRING, 2, HUGE, HUGE))]), "key 'a': .* past the end"),
    "key twice": (file([key(b"a", U32, b"\0" * 4)] * 2), "key 'a': found twice"),
    "alignment 0": (file([alignment(0)]), "general.alignment: found 0, expected a power of two"),
    "alignment 24": (file([alignment(24)]), "general.alignment: found 24"),
    "alignment 2^31": (file([alignment(2**31)], [row()], 64), "tensor 'w': found 0 bytes left"),
    "text alignment": (file([key(b"general.alignment", STRING, text(b"32"))]), "general.alignment: found '32'"),
    "no axes": (file((), [row(lengths=())], 64), "tensor 'w': found 0 axes"),
    "many axes": (file((), [row(lengths=(1,) * 5)], 64), "tensor 'w': found 5 axes"),
    "long axes": (file((), [row(lengths=(2**20,) * 4)], 64), "tensor 'w': found 64 bytes left"),
    "axes beyond MLX's": (file((), [row(lengths=(2**62, 0))], 64), f"'w': found shape .0, {2**62}., expected lengths"),
    "rows beyond MLX's": (file((), [row(lengths=(2**29, 0))], 64), "'w': found rows of 2147483648 bytes, expected at"),
    "too many tensors": (file(tensor_count=2**16 + 1, data=2**22), "number of tensors: found 65537, expected at most"),
    "too many strings": (
        file([key(b"a", ARRAY, struct.pack("<IQ", STRING, 2**20 + 1))], data=2**24),
        "key 'a': found 1048577, expected at most 1048576",
    ),
    "half a block": (file((), [row(lengths=(40,), kind=Q8_0)], 64), "rows of 40 weights, expected a multiple of 32"),
    "odd offset": (file((), [row(offset=4)], 64), "found offset 4, expected a multiple of 32"),
    "far offset": (file((), [row(offset=HUGE)], 64), "tensor 'w': found 0 bytes left"),
    "overlap": (
        file((), [row(b"a", (9,)), row(b"b", (4,), offset=32)], 64),
        "'b': found at byte .* inside tensor 'a' .F32.",
    ),
    "gap": (
        file((), [row(b"a", (4,)), row(b"b", (4,), offset=64)], 128),
        r"'b': found at byte .*, 32 bytes behind the end of tensor 'a' \(F32\), expected",
    ),
    "no start": (file((), [row(offset=32)], 64), "'w': found at byte .*, 32 bytes behind the end of the header"),
    "more behind": (file((), [row()], 64) + b"x" * 32, r"bytes behind the end of tensor 'w' \(F32\), expected none"),
    "tensor twice": (file((), [row(), row(offset=32)], 64), "tensor 'w': found twice"),
}


def read_all(path) -> None:
    """Everything that a file holds, asked for."""
    opened = GGUFFile(path)
    dict(opened.metadata)
    weights = mxd.load(path).weights
    for name, info in opened.tensors.items():
        if info.type.readable:
            opened.blocks(name)
            assert weights[name].size >= 0
        else:
            with pytest.raises(mxd.FormatError, match="found type"):
                weights[name]


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(tmp_path, name):
    content, message = LIES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(mxd.FormatError, match=message) as error:
        GGUFFile(path)
    assert str(error.value).startswith("model.gguf: ") and "\n" not in str(error.value)


def test_a_tensor_of_unknown_size_ends_with_its_file(tmp_path):
    """Even where an empty tensor behind it says that it lies further on."""
    path = tmp_path / "model.gguf"
    content = file((), [row(b"unknown", (4,), kind=99), row(b"empty", (0,), offset=1024)])
    path.write_bytes(content)
    with pytest.raises(mxd.FormatError, match="'empty': found at byte"):
        GGUFFile(path)
    path.write_bytes(file((), [row(b"unknown", (4,), kind=99)], 64))
    assert GGUFFile(path).tensors["unknown"].nbytes == 64


def test_strings_are_checked_when_asked_for(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(file([key(b"a", STRING, text(b"\xff")), key(b"b", STRING, text(b"fine"))]))
    opened = GGUFFile(path)
    assert opened.metadata["b"] == "fine"
    with pytest.raises(mxd.FormatError, match="key 'a': found bytes that are not UTF-8"):
        opened.metadata["a"]


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        mxd.load(tmp_path / "missing.gguf")
    with pytest.raises(mxd.FormatError, match="found a folder"):
        GGUFFile(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A path to write to, and the bytes of a small sound file."""
    path = tmp_path_factory.mktemp("fuzz") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(32)
    writer.add_token_list(["<s>", "▁a", "b"])
    writer.add_token_scores([0.5, 1.0, 2.0])
    writer.add_bool("a.flag", True)
    writer.add_tensor("norm", np.ones(8, np.float32))
    writer.add_tensor("w", np.ones((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, path.read_bytes()


def test_a_file_cut_anywhere_is_refused(sound):
    path, content = sound
    end = GGUFFile(path).tensors["w"]
    for length in range(end.offset + end.nbytes):
        path.write_bytes(content[:length])
        with pytest.raises(mxd.FormatError):
            GGUFFile(path)
    path.write_bytes(content)
    read_all(path)


numbers = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]))
edits = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["<B", "<I", "<Q"]), numbers), min_size=1, max_size=4)


@settings(max_examples=500, deadline=None)
@given(edits, st.floats(0.5, 1))
def test_any_damage_gives_a_format_error_or_a_file(sound, edits, kept):
    path, content = sound
    damaged = bytearray(content)
    for where, form, number in edits:
        size = struct.calcsize(form)
        struct.pack_into(form, damaged, int(where * (len(damaged) - size)), number % 2 ** (8 * size))
    path.write_bytes(damaged[: int(kept * len(damaged))])
    tracemalloc.start()
    try:
        read_all(path)
    except mxd.FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10_000_000, f"{peak} bytes allocated for a file of {len(content)}"
