"""Any bytes, any shape: every backend gives what the reference gives, in every bit."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DTYPES, assert_same, bits

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.diagnostics.sample_weights import GGUF_FORMATS, GROUP_FORMATS

FAST = [name for name in mxd.available_backends() if name != "reference"]
seeds = st.integers(0, 2**32 - 1)


def agree(weight, dtype):
    with mxd.use_backend("reference"):
        expected = bits(weight.dequantize(dtype))
    for backend in FAST:
        with mxd.use_backend(backend):
            assert_same(weight.dequantize(dtype), expected, f"{backend} {weight} {dtype}")


# A type of the scales with a type of the result: each of either, without every pair's compilation.
PAIRS = [(mx.float16, mx.float16), (mx.float32, mx.bfloat16), (mx.bfloat16, mx.float32)]

pytestmark = pytest.mark.skipif(not FAST, reason="no compiler was found: there is only the reference")
examples = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("name", GGUF_FORMATS)
@given(seed=seeds, rows=st.integers(1, 5), blocks=st.integers(1, 5), dtype=st.sampled_from(DTYPES))
@examples
def test_gguf(name, seed, rows, blocks, dtype):
    # Types with one weight a block have rows of any length.
    weights = max(mxd.formats()[name].weights, 9)
    agree(sample_weights.gguf(name, np.random.default_rng(seed), rows, blocks * weights), dtype)


ZEROS = {"awq": ["v1"], "gptq": ["v1", "v1-field", "v2"], "compressed_tensors": ["v1", "none"]}


@pytest.mark.parametrize("name", GROUP_FORMATS)
@given(
    data=st.data(),
    seed=seeds,
    in_features=st.integers(1, 150),
    out_features=st.integers(1, 80),
    group_size=st.one_of(st.just(-1), st.integers(1, 300)),
    types=st.sampled_from(PAIRS),
    plain=st.booleans(),
)
@settings(examples, max_examples=60)
def test_groups(name, data, seed, in_features, out_features, group_size, types, plain):
    family = mxd.formats()[name].family
    zeros = data.draw(st.sampled_from(ZEROS[family]), "zero points")
    g_idx = data.draw(st.sampled_from(["", "uneven"] if family != "awq" else [""]), "act order")
    sizes = in_features, out_features, group_size
    rng = np.random.default_rng(seed)
    agree(sample_weights.groups(name, rng, *sizes, types[0], plain=plain, g_idx=g_idx, zeros=zeros), types[1])
