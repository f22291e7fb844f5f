"""Weights past 2^31 elements on a GPU, in full: a small block of rows, repeated, dequantizes alike everywhere."""

import mlx.core as mx
import numpy as np
import pytest
from support import gguf_fixture

import mlx_dequant as mxd

GPU = [name for name in mxd.available_backends() if name in ("metal", "cuda")]

pytestmark = [pytest.mark.full, pytest.mark.skipif(not GPU, reason="needs a GPU")]

COLUMNS = 1 << 15
PERIOD = 512


@pytest.mark.parametrize("shape", [((1 << 16) + PERIOD, COLUMNS), (129, PERIOD, COLUMNS)])
def test_more_than_2_to_the_31_weights(shape):
    row_bytes = COLUMNS // 256 * 144
    blocks = np.resize(gguf_fixture("q4_k")["real"][0], (PERIOD, row_bytes))
    small = mxd.GGUFWeight(blocks, "q4_k")
    with mxd.use_backend("reference"):
        expected = np.asarray(small.dequantize(mx.float16)).view(np.uint16)
    rows = int(np.prod(shape[:-1]))
    large = mxd.GGUFWeight(
        mx.concatenate([mx.array(blocks)] * (rows // PERIOD)).reshape(*shape[:-1], row_bytes), "q4_k"
    )
    assert large.size > 2**31
    with mxd.use_backend(GPU[0]):
        dense = large.dequantize(mx.float16)
        assert dense.shape == shape
        for part in mx.split(dense.reshape(rows // PERIOD, PERIOD, COLUMNS), rows // PERIOD):
            assert mx.array_equal(part[0].view(mx.uint16), mx.array(expected))
