"""Our safetensors reader finds what MLX's finds; files that lie, or end early, give FormatError."""

from __future__ import annotations

import json
import struct
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_dequant as mxd
from mlx_dequant.loading.safetensors import SafetensorsFile

DTYPES = ("bool_", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "bfloat16", "float32")


def write(path, header, data=b"", length=None):
    """A file of a header, as JSON or as bytes, and data; the header's length may lie."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def tensor(start, stop, dtype="F32", shape=(4,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def read_all(path):
    file = SafetensorsFile(path)
    return {name: file.read(name) for name in file.tensors}


def test_every_type_equals_mlx(tmp_path):
    path = tmp_path / "model.safetensors"
    values = mx.arange(24).reshape(2, 3, 4)
    tensors = {name: values.astype(getattr(mx, name)) for name in DTYPES + FLOATS}
    tensors |= {"scalar": mx.array(3.5), "empty": mx.zeros((0, 3), mx.bfloat16)}
    mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"})
    found = read_all(path)
    assert found.keys() == tensors.keys()
    for name, expected in mx.load(str(path)).items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
        assert mx.array_equal(found[name], expected), name
    assert SafetensorsFile(path).metadata == {"format": "mlx"}


def test_data_need_not_be_aligned(tmp_path):
    header = json.dumps({"w": tensor(1, 17), "b": tensor(17, 19, "BF16", (1,))}).encode()
    header += b" " * ((8 - len(header)) % 8)
    data = b"\0" + np.arange(4, dtype=np.float32).tobytes() + b"\x80\x3f"
    found = read_all(write(tmp_path / "model.safetensors", header, data))
    assert found["w"].tolist() == [0, 1, 2, 3]
    assert found["b"].dtype == mx.bfloat16 and found["b"].tolist() == [1]


def test_other_types_are_refused_when_asked_for(tmp_path):
    header = {"a": tensor(0, 4, "F8_E4M3"), "b": tensor(4, 8, "U8")}
    file = SafetensorsFile(write(tmp_path / "model.safetensors", header, b"\1" * 8))
    assert file.read("b").tolist() == [1] * 4
    with pytest.raises(mxd.FormatError, match="tensor 'a': found F8_E4M3, expected one of BOOL"):
        file.read("a")


deep = b'{"a":' * 100_000
LIES = {
    "long header": ({"a": tensor(0, 16)}, 2**63, "header: found a length of"),
    "no JSON": (b"{", None, "found no valid JSON"),
    "no UTF-8": (b'{"\xff": 1}', None, "found no valid JSON"),
    "deep JSON": (deep, None, "found no valid JSON"),
    "no object": ([], None, "found JSON of type list"),
    "name twice": (b'{"a": 1, "a": 2}', None, "key 'a': found twice"),
    "metadata": ({"__metadata__": {"a": 1}}, None, "__metadata__: found other values"),
    "no row": ({"a": 1}, None, "tensor 'a': found no dtype"),
    "dtype": ({"a": tensor(0, 16, 4)}, None, "tensor 'a': found dtype 4"),
    "dtype of a list": ({"a": tensor(0, 16, [])}, None, r"tensor 'a': found dtype \[\]"),
    "negative shape": ({"a": tensor(0, 16, shape=(-4,))}, None, r"tensor 'a': found shape \[-4\]"),
    "fractional shape": ({"a": tensor(0, 16, shape=(4.0,))}, None, r"tensor 'a': found shape \[4.0\]"),
    "boolean shape": ({"a": tensor(0, 4, shape=(True,))}, None, r"tensor 'a': found shape \[True\]"),
    "long shape": ({"a": tensor(0, 0, shape=(0, 2**40))}, None, "tensor 'a': found shape"),
    "many axes": ({"a": tensor(0, 4, shape=(1,) * 9)}, None, "tensor 'a': found shape"),
    "backwards": ({"a": tensor(16, 0)}, None, r"tensor 'a': found data_offsets \[16, 0\]"),
    "past the end": ({"a": tensor(16, 32)}, None, r"tensor 'a': found data_offsets \[16, 32\], expected .* up to 16"),
    "three offsets": ({"a": {**tensor(0, 16), "data_offsets": [0, 8, 16]}}, None, "tensor 'a': found data_offsets"),
    "wrong size": ({"a": tensor(0, 12)}, None, r"tensor 'a': found 12 bytes, expected 16 for F32 \[4\]"),
    "overlap": ({"a": tensor(0, 16), "b": tensor(12, 16, shape=(1,))}, None, "'b': found at byte .* inside tensor 'a'"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(tmp_path, name):
    header, length, message = LIES[name]
    path = write(tmp_path / "model.safetensors", header, b"\0" * 16, length)
    with pytest.raises(mxd.FormatError, match=message) as error:
        SafetensorsFile(path)
    assert str(error.value).startswith("model.safetensors: ") and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A path to write to, the header and the data of a small sound file."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    header = {"a": tensor(0, 16), "b": tensor(16, 22, "BF16", (3, 1)), "__metadata__": {"by": "test"}}
    return path, header, bytes(range(22))


def test_a_file_cut_anywhere_is_refused(sound):
    path, header, data = sound
    content = write(path, header, data).read_bytes()
    read_all(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(mxd.FormatError):
            SafetensorsFile(path)


def assert_read_or_refused(path):
    tracemalloc.start()
    try:
        for array in read_all(path).values():
            mx.eval(array)
    except mxd.FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10_000_000, f"{peak} bytes allocated for a file of {path.stat().st_size}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4), st.data())
def test_any_damage_gives_a_format_error_or_a_file(sound, edits, data):
    path, header, content = sound
    damaged = bytearray(write(path, header, content).read_bytes())
    for where, new in edits:
        at = int(where * len(damaged))
        damaged[at : at + len(new)] = new
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    assert_read_or_refused(path)


numbers = st.one_of(st.integers(-2, 30), st.sampled_from([2**31, 2**63, 10**400]), st.floats(), st.booleans())
values = st.recursive(
    st.one_of(numbers, st.none(), st.sampled_from(["F32", "BF16", "F64", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)
rows = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "BF16", "U8", "BOOL"]), values),
        "shape": st.one_of(st.lists(st.integers(0, 8), max_size=3), values),
        "data_offsets": st.one_of(st.lists(st.integers(0, 24), min_size=2, max_size=2).map(sorted), values),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), st.one_of(rows, values), max_size=3))
def test_any_header_gives_a_format_error_or_a_file(sound, header):
    path, _, content = sound
    assert_read_or_refused(write(path, header, content))
