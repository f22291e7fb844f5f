"""AWQ and compressed-tensors weights: groups, channels, indices and shapes that fill no word."""

import mlx.core as mx
import numpy as np
import pytest
from layout import along
from support import assert_same, bits

import mlx_dequant as mxd

WIDTHS = (2, 3, 4, 8)
PLACES = (0, 2, 4, 6, 1, 3, 5, 7)


def stored(width, outputs, inputs, groups, seed=0):
    """Codes, zero points and scales of a random weight; the first two as they are stored."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 1 << width, (outputs, inputs))
    z = rng.integers(0, 1 << width, (outputs, groups))
    return q, z, rng.normal(size=(outputs, groups)).astype(np.float16)


def formula(q, z, scales, group):
    """[out, in] float32 weights."""
    return (q - z[:, group]).astype(np.float32) * scales[:, group].astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("outputs, inputs, size", [(8, 64, 32), (3, 37, 16), (13, 70, -1), (1, 1, 128), (33, 100, 7)])
@pytest.mark.parametrize("width", WIDTHS)
def test_shapes(width, outputs, inputs, size, symmetric, backend):
    groups = 1 if size == -1 else -(-inputs // size)
    q, z, scales = stored(width, outputs, inputs, groups)
    group = np.zeros(inputs, int) if size == -1 else np.arange(inputs) // size
    zeros = None if symmetric else along(0, z, width)
    if symmetric:
        z = np.full(z.shape, 1 << width - 1)
    shape = mx.array([outputs, inputs])
    weight = mxd.CompressedTensorsWeight(along(1, q, width), scales, shape, zeros, bits=width, group_size=size)
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, group)))


@pytest.mark.parametrize("width", WIDTHS)
def test_act_order(width, backend):
    q, z, scales = stored(width, 5, 50, 4)
    group = np.random.default_rng(3).integers(0, 4, 50).astype(np.int32)
    weight = mxd.CompressedTensorsWeight(along(1, q, width), scales, (5, 50), along(0, z, width), group, width, 16)
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, group)))


@pytest.mark.parametrize(
    "index",
    [None, np.full(50, -1, np.int32), np.arange(50, dtype=np.int32) // 32, np.arange(50, dtype=np.uint32) // 32],
)
def test_an_index_that_says_nothing_new(index, backend):
    q, z, scales = stored(4, 5, 50, 2)
    weight = mxd.CompressedTensorsWeight(along(1, q, 4), scales, (5, 50), along(0, z, 4), index, group_size=32)
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, np.arange(50) // 32)))
    assert weight.arrays["g_idx"] is None


@pytest.mark.parametrize("size", [1, 7, 16, 48])
def test_groups_that_end_inside_a_run(size, backend):
    q, z, scales = stored(4, 5, 50, -(-50 // size))
    weight = mxd.CompressedTensorsWeight(along(1, q, 4), scales, (5, 50), along(0, z, 4), group_size=size)
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, np.arange(50) // size)))


def awq_words(codes):
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for nibble, place in enumerate(PLACES):
        words |= codes[:, place::8].astype(np.uint32) << np.uint32(4 * nibble)
    return words


@pytest.mark.parametrize("inputs, outputs, size", [(64, 32, 32), (50, 8, 16), (7, 40, -1), (33, 104, 128), (9, 16, 1)])
def test_awq_shapes(inputs, outputs, size, backend):
    groups = 1 if size == -1 else -(-inputs // size)
    q, z, scales = (part.T for part in stored(4, outputs, inputs, groups))
    group = np.zeros(inputs, int) if size == -1 else np.arange(inputs) // size
    weight = mxd.AWQWeight(awq_words(q), scales, awq_words(z), size)
    assert_same(weight.dequantize(mx.float32), bits(formula(q.T, z.T, scales.T, group).T))
