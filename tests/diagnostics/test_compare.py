"""Comparisons tell bits apart, and bounds hold what they should and no more."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.diagnostics import bounds, compare, sample_weights
from mlx_dequant.diagnostics.compare import same_bits, within

TINY = np.float32(1e-40)
EXPECTED = np.array([1, 0, np.nan, TINY, -TINY, np.inf], np.float32)


def counts(result):
    return result.values, result.wrong, result.flushed


def test_bits():
    assert counts(same_bits(EXPECTED.copy(), EXPECTED)) == (6, 0, 0)
    found = np.array([1, -0.0, -np.nan, 0, -0.0, -np.inf], np.float32)
    assert counts(same_bits(found, EXPECTED)) == (6, 4, 0)
    assert counts(same_bits(found, EXPECTED, flushes=True)) == (6, 2, 2)
    two, tiny = np.array([2], np.float32), np.array([TINY], np.float32)
    assert counts(same_bits(two, tiny, flushes=True)) == (1, 1, 0)
    assert counts(same_bits(np.array([np.nan], np.float32), two)) == (1, 1, 0)
    assert counts(same_bits(np.zeros(1, np.float32), np.array([1e-37], np.float32), flushes=True)) == (1, 1, 0)


def test_one_bit_is_named():
    ones = np.ones((2, 3), np.float32)
    found = ones.copy()
    found[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    assert str(same_bits(found, ones)) == "1 of 6 values differ, at (1, 2) found 1.00000012, expected 1"
    assert str(same_bits(ones.copy(), ones)) == ""


@pytest.mark.parametrize("check", [same_bits, lambda found, expected: within(found, expected, 1.0)])
def test_another_shape_is_wrong(check):
    assert "found shape (3,), expected (1, 3)" in str(check(np.ones(3, np.float32), np.ones((1, 3), np.float32)))


def test_bounds_are_kept_or_not():
    ones = np.ones(4)
    assert not within(ones + 0.01, ones, 0.02).wrong
    result = within(ones + np.array([0, 0.03, 0, 0.01]), ones, 0.02)
    assert result.wrong == 1 and "at (1,)" in result.problem and "1.5 times the bound" in result.problem
    assert within(np.full(4, np.nan), ones, 0.02).wrong == 4


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_the_bound_of_a_matmul_holds_one_rounding_and_no_more(dtype):
    rng = np.random.default_rng(0)
    x, dense = rng.normal(size=(3, 64)), rng.normal(size=(64, 5))
    expected, bound = bounds.matmul_bound(x, dense, dtype)
    np.testing.assert_array_equal(expected, x @ dense)
    found = compare.rounded(expected.astype(np.float32), dtype).astype(np.float64)
    assert not within(found, expected, bound).wrong
    assert within(found * 1.01, expected, bound).wrong > 10


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_rounded_weights_need_a_wider_bound(dtype):
    rng = np.random.default_rng(0)
    x, dense = rng.normal(size=(3, 64)), rng.normal(size=(64, 5))
    found = x @ compare.rounded(dense.astype(np.float32), dtype).astype(np.float64)
    assert within(found, *bounds.matmul_bound(x, dense, mx.float32)).wrong
    allowance = bounds.rounded_weights(dtype)
    assert not within(found, *bounds.matmul_bound(x, dense, mx.float32, allowance=allowance)).wrong
    assert not within(found, *bounds.matmul_bound(x, dense, dtype, rounds=True)).wrong


def test_x_in_8_bits_needs_a_wider_bound():
    rng = np.random.default_rng(0)
    dense, step = rng.normal(size=(64, 5)), np.repeat([1.0, 8.0], 32)
    moved = 0.499 * np.sign(dense[:, 0])
    x = rng.integers(-100, 100, 64) + moved
    x[::32], moved[::32] = 127, 0
    for share, wrong in ((1, 0), (1.1, 1)):
        found = (step * (x - share * moved))[None] @ dense
        assert (
            within(found, *bounds.matmul_bound((step * x)[None], dense, mx.float32, allowance=bounds.INT8)).wrong
            == wrong
        )
    assert within(found, *bounds.matmul_bound((step * x)[None], dense, mx.float32)).wrong


def test_only_gpus_round_weights_and_only_for_many_rows():
    found = {M: bounds.rounds_weights("cuda", M) for M in (1, 16, 17, 512)}
    assert found == {1: False, 16: False, 17: True, 512: True}
    assert not bounds.rounds_weights("host", 512)


@pytest.mark.parametrize("name", ["q8_0", "gptq4", "ct4"])
def test_the_exact_weight_is_out_by_in(name):
    weight = sample_weights.layer(name, 64, 256)
    with mxd.use_backend("reference"):
        picked = np.array(weight.take(mx.array([3]), mx.float32))
    np.testing.assert_array_equal(compare.exact(weight)[3:4], picked)
