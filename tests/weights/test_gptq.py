"""GPTQ weights: the three readings of zero points, act-order, groups of any size."""

import mlx.core as mx
import numpy as np
import pytest
from layout import along, stream
from support import DTYPES, assert_same, bits, group_fixture, group_settings, group_tensors, rounded

import mlx_dequant as mxd

WIDTHS = (2, 3, 4, 8)


def zero_points(mode, width, stored):
    """What the fields of a line of zero points mean: `stored` is a list of 32 codes."""
    top = 1 << width
    if mode == "v2":
        return stored
    if mode == "v1-field":
        return [z + 1 for z in stored]
    if width == 3:
        return [(z + 1) % top for z in stored]
    fields = 32 // width
    ones = sum(1 << width * i for i in range(fields))
    words = [(word % (1 << 32) + ones) % (1 << 32) for word in stream(stored, width)]
    return [words[i // fields] >> width * (i % fields) & top - 1 for i in range(32)]


def lines(width):
    """Lines of 32 stored zero points: all least, all greatest (every sum carries), mixes of both, and others."""
    top = (1 << width) - 1
    rng = np.random.default_rng(width)
    yield [0] * 32
    yield [top] * 32
    yield [top, 0] * 16
    yield [0, top] * 16
    yield [top - 1, top] * 16
    yield from rng.integers(0, top + 1, (3, 32)).tolist()


@pytest.mark.parametrize("mode", ["v1", "v1-field", "v2"])
@pytest.mark.parametrize("width", WIDTHS)
def test_zero_points(width, mode, backend):
    stored = list(lines(width))
    z = np.array([zero_points(mode, width, line) for line in stored])
    q = np.random.default_rng(9).integers(0, 1 << width, (32 * len(z), 32))
    scales = np.full(z.shape, 0.5, np.float16)
    weight = mxd.GPTQWeight(along(0, q, width), scales, along(1, np.array(stored), width), None, 32, width, mode)
    expected = (q - np.repeat(z, 32, axis=0)) * np.float32(0.5)
    assert_same(weight.dequantize(mx.float32), bits(expected.astype(np.float32)), mode)


@pytest.mark.parametrize("mode, same", [("v1", True), ("v1-field", False), ("v2", False)])
@pytest.mark.parametrize("name", ["gptq_w4_g16_asym_v1_4l", "gptq_w2_g32_asym_actorder_v1_4l"])
def test_only_whole_words_match_a_zero_point_of_zero(name, mode, same, backend):
    tensors = group_tensors(name)
    expected = tensors.pop("expected").T
    settings = group_settings(name)
    weight = mxd.GPTQWeight(**tensors, group_size=settings["group_size"], bits=settings["bits"], zero_points=mode)
    assert np.array_equal(bits(weight.dequantize()), bits(expected)) is same


def formula(q, z, scales, group):
    """[in, out] float32 weights; exact differences, one rounding."""
    return ((q - z[group]).astype(np.float32) * scales[group].astype(np.float32)).astype(np.float32)


def random_parts(width, inputs, outputs, groups, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 1 << width, (inputs, outputs))
    z = rng.integers(0, 1 << width, (groups, outputs))
    return q, z, rng.normal(size=(groups, outputs)).astype(np.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_of_every_type(dtype, backend):
    """Negative ones among them; results of every type are the exact weight, rounded once."""
    q, z, scales = random_parts(4, 64, 32, 2)
    assert (scales < 0).any()
    scales = mx.array(scales.astype(np.float32) * np.float32(1.001)).astype(dtype)
    exact = formula(q, z, np.array(scales.astype(mx.float32)), np.arange(64) // 32)
    weight = mxd.GPTQWeight(along(0, q, 4), scales, along(1, z, 4), None, 32, 4, "v2")
    assert weight.dequantize().dtype == dtype
    for out in DTYPES:
        assert_same(weight.dequantize(out), rounded(exact, out), str(out))


# Inputs come in 32s; the groups may end anywhere, even inside a word.
@pytest.mark.parametrize("inputs, size", [(64, 64), (96, 64), (96, -1), (64, 1), (160, 7), (32, 128)])
@pytest.mark.parametrize("width", WIDTHS)
def test_group_sizes(width, inputs, size, backend):
    groups = 1 if size == -1 else -(-inputs // size)
    q, z, scales = random_parts(width, inputs, 32, groups)
    group = np.arange(inputs) // (inputs if size == -1 else size)
    weight = mxd.GPTQWeight(along(0, q, width), scales, along(1, z, width), None, size, width, "v2")
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, group)))


@pytest.mark.parametrize("width", WIDTHS)
def test_act_order(width, backend):
    q, z, scales = random_parts(width, 96, 64, 3)
    group = np.random.default_rng(5).permutation(np.arange(96) // 32)
    for g_idx in (group.astype(np.int32), group.astype(np.int64), mx.array(group.astype(np.uint32))):
        weight = mxd.GPTQWeight(along(0, q, width), scales, along(1, z, width), g_idx, 32, width, "v2")
        assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, group)))


def test_an_index_may_leave_groups_out_and_outnumber_them(backend):
    q, z, scales = random_parts(4, 32, 8, 5)
    group = np.full(32, 3, np.int32)
    weight = mxd.GPTQWeight(along(0, q, 4), scales, along(1, z, 4), group, 128, 4, "v2")
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, group)))


@pytest.mark.parametrize("g_idx", [None, np.zeros(0, np.int32), np.arange(96, dtype=np.int32) // 32])
def test_an_index_that_says_nothing_new_costs_nothing(g_idx, backend):
    q, z, scales = random_parts(4, 96, 32, 3)
    weight = mxd.GPTQWeight(along(0, q, 4), scales, along(1, z, 4), g_idx, 32, 4, "v2")
    assert_same(weight.dequantize(mx.float32), bits(formula(q, z, scales, np.arange(96) // 32)))
    assert weight.nbytes == 96 * 32 // 2 + 3 * 32 // 2 + 2 * 3 * 32


def test_real_act_order_is_used():
    """Ignoring the index of a real set gives other weights: the set can tell."""
    name = "gptq_w4_g32_actorder_sym_v1_4l"
    weight, expected = group_fixture(name)
    tensors = group_tensors(name)
    del tensors["expected"], tensors["g_idx"]
    assert weight.arrays["g_idx"] is not None
    without = mxd.GPTQWeight(**tensors, group_size=32)
    assert not np.array_equal(bits(without.dequantize()), bits(expected))
