"""Any bytes, any shape: every backend gives what the reference gives, in every bit."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DTYPES, assert_same, bits

import mlx_dequant as mxd

FAST = [name for name in mxd.available_backends() if name != "reference"]
FORMATS = mxd.formats()
seeds = st.integers(0, 2**32 - 1)


def agree(weight, dtype):
    with mxd.use_backend("reference"):
        expected = bits(weight.dequantize(dtype))
    for backend in FAST:
        with mxd.use_backend(backend):
            assert_same(weight.dequantize(dtype), expected, f"{backend} {weight} {dtype}")


def some_words(rng, *shape):
    return rng.integers(0, 1 << 32, shape, np.uint32)


def some_scales(rng, shape, dtype):
    """Any bits of the type: infinities, NaNs and subnormals too, and plain numbers in half of the draws."""
    if rng.random() < 0.5:
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)
    if dtype == mx.float32:
        return mx.array(some_words(rng, *shape)).view(dtype)
    return mx.array(rng.integers(0, 1 << 16, shape, np.uint16)).view(dtype)


# A type of the scales with a type of the result: each of either, without every pair's compilation.
PAIRS = [(mx.float16, mx.float16), (mx.float32, mx.bfloat16), (mx.bfloat16, mx.float32)]

pytestmark = pytest.mark.skipif(not FAST, reason="no compiler was found: there is only the reference")
examples = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.family == "gguf"])
@given(seed=seeds, rows=st.integers(1, 5), blocks=st.integers(1, 5), dtype=st.sampled_from(DTYPES))
@examples
def test_gguf(name, seed, rows, blocks, dtype):
    rng = np.random.default_rng(seed)
    form = FORMATS[name]
    # Types with one weight a block have rows of any length.
    blocks *= 9 if form.weights == 1 else 1
    agree(mxd.GGUFWeight(rng.integers(0, 256, (rows, blocks * form.bytes), np.uint8), name), dtype)


sizes = st.one_of(st.just(-1), st.integers(1, 300))


@given(seed=seeds, inputs=st.integers(1, 70), words=st.integers(1, 9), size=sizes, pair=st.sampled_from(PAIRS))
@settings(examples, max_examples=60)
def test_awq(seed, inputs, words, size, pair):
    rng = np.random.default_rng(seed)
    groups = 1 if size == -1 else -(-inputs // size)
    scales = some_scales(rng, (groups, 8 * words), pair[0])
    weight = mxd.AWQWeight(some_words(rng, inputs, words), scales, some_words(rng, groups, words), size)
    agree(weight, pair[1])


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@given(data=st.data(), seed=seeds, size=sizes, pair=st.sampled_from(PAIRS))
@settings(examples, max_examples=60)
def test_gptq(width, data, seed, size, pair):
    rng = np.random.default_rng(seed)
    every = 32 if width == 3 else 32 // width
    inputs = every * data.draw(st.integers(1, 6), "inputs")
    outputs = every * data.draw(st.integers(1, 5), "outputs")
    groups = 1 if size == -1 else -(-inputs // size)
    index = rng.integers(0, groups, inputs).astype(np.int32) if data.draw(st.booleans(), "act order") else None
    weight = mxd.GPTQWeight(
        some_words(rng, inputs * width // 32, outputs),
        some_scales(rng, (groups, outputs), pair[0]),
        some_words(rng, groups, outputs * width // 32),
        index,
        size,
        width,
        data.draw(st.sampled_from(["v1", "v1-field", "v2"]), "zero points"),
    )
    agree(weight, pair[1])


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@given(data=st.data(), seed=seeds, outputs=st.integers(1, 40), inputs=st.integers(1, 150), size=sizes)
@settings(examples, max_examples=60)
def test_packed(width, data, seed, outputs, inputs, size):
    rng = np.random.default_rng(seed)
    scales, out = data.draw(st.sampled_from(PAIRS), "types")
    groups = 1 if size == -1 else -(-inputs // size)
    zeros = some_words(rng, -(-outputs * width // 32), groups) if data.draw(st.booleans(), "asymmetric") else None
    index = rng.integers(0, groups, inputs).astype(np.int32) if data.draw(st.booleans(), "act order") else None
    weight = mxd.CompressedTensorsWeight(
        some_words(rng, outputs, -(-inputs * width // 32)),
        some_scales(rng, (outputs, groups), scales),
        (outputs, inputs),
        zeros,
        index,
        width,
        size,
    )
    agree(weight, out)
