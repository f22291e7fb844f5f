"""Every fixture dequantizes to the bits of its own tool, on every backend."""

import mlx.core as mx
import numpy as np
import pytest
from support import DTYPES, GGUF_TYPES, GROUP_SETS, assert_same, bits, gguf_fixture, group_fixture, rounded

import mlx_dequant as mxd


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GGUF_TYPES)
def test_gguf_is_ggml_rounded_once(name, dtype, backend):
    for part, (blocks, expected) in gguf_fixture(name).items():
        found = mxd.dequantize_gguf(blocks, name, dtype=dtype)
        assert_same(found, rounded(expected, dtype), f"{name} {part}")


def test_gguf_fixtures_cover_the_registry():
    types = {name for name, form in mxd.formats().items() if form.family == "gguf"}
    assert types - set(GGUF_TYPES) == {"f32"}
    assert set(GGUF_TYPES) <= types


@pytest.mark.parametrize("name", GROUP_SETS)
def test_group_set_is_its_tools_own(name, backend):
    weight, expected = group_fixture(name)
    found = weight.dequantize()
    assert found.dtype == expected.dtype
    assert_same(found, bits(expected), name)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_every_scale_byte(name, backend):
    """Each of the 256 scales against the formula in float64, which holds all of them exactly."""
    form = mxd.formats()[name]
    codes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    byte = np.arange(256)
    if name == "mxfp4":
        scale = 2.0 ** (byte - 127)
        blocks = np.empty((256, form.bytes), np.uint8)
        blocks[:, 0] = byte
        blocks[:, 1:] = np.arange(16) * 17
        expected = scale[:, None] * np.tile(codes, 2)
    else:
        exponent, mantissa = byte >> 3 & 15, byte & 7
        scale = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
        scale[0x7F] = 0
        blocks = np.empty((64, form.bytes), np.uint8)
        blocks[:, :4] = byte.reshape(64, 4)
        blocks[:, 4:] = np.tile(np.arange(8) * 2 + (np.arange(8) * 2 + 1) * 16, 4)
        pairs = codes.reshape(8, 2).T.reshape(-1)
        expected = (scale[:, None] * pairs).reshape(64, 64)
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    assert_same(mxd.dequantize_gguf(blocks, name, dtype=mx.float32), bits(expected), name)


SPECIAL = {
    "f32": (mx.float32, np.array([0x80000000, 1, 0x807FFFFF, 0x7F800001, 0xFFC12345, 0x7F7FFFFF], np.uint32)),
    "f16": (mx.float16, np.array([0x8000, 1, 0x83FF, 0x7C01, 0xFE55, 0x7BFF], np.uint16)),
    "bf16": (mx.bfloat16, np.array([0x8000, 1, 0x807F, 0x7F81, 0xFFD5, 0x7F7F], np.uint16)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_floats_in_their_own_type_are_copied(name, backend):
    """Payloads of NaNs and subnormals included."""
    dtype, words = SPECIAL[name]
    words = np.concatenate([words, np.random.default_rng(0).integers(0, 1 << 8 * words.itemsize, 250, words.dtype)])
    for chosen in (None, dtype):
        found = mxd.dequantize_gguf(words.reshape(2, 128).view(np.uint8), name, dtype=chosen)
        assert found.dtype == dtype
        assert np.array_equal(bits(found), words.reshape(2, 128))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_float32_is_rounded_once(dtype, backend):
    """Ties, overflows and subnormals of the smaller types, and everything between."""
    words = np.random.default_rng(1).integers(0, 1 << 32, 4096, np.uint32)
    words[:1024] &= 0xFFFF8000
    words[1024:2048] = words[1024:2048] & 0x80FFF000 | np.arange(1024, dtype=np.uint32) % 64 + 90 << 23
    found = mxd.dequantize_gguf(words.view(np.uint8), "F32", dtype=dtype)
    assert_same(found, rounded(words.view(np.float32), dtype), "F32")
