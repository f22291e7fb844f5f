"""Products with quantized weights: as near to exact as float32 sums are, in every format, both ways."""

import mlx.core as mx
import numpy as np
import pytest
from devices import tuned
from product_cases import (
    FORMATS,
    LONG,
    MANY,
    ROWS,
    SCALED,
    SIZES,
    check_near,
    check_products,
    check_single_inputs,
    exact,
    numbers,
    on_backends,
    small_and_large,
    weight,
    wide_groups,
)
from support import DTYPES

import mlx_dequant as mxd

full = pytest.mark.full
HALVES = (mx.float16, mx.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(FORMATS, DTYPES), indirect=["backend"])
def test_products(name, dtype, backend):
    for size in SIZES:
        for rows in ROWS:
            check_products(weight(name, size), dtype, rows, seed=rows)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "gptq4" else full) for name in FORMATS])
def test_products_of_wide_groups(name, backend):
    for dtype in HALVES:
        for rows in (1, 4, 8, 11):
            check_products(wide_groups(name), dtype, rows, seed=rows)
        check_single_inputs(wide_groups(name), dtype, 5)


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(FORMATS, HALVES), indirect=["backend"])
def test_products_of_many_rows(name, dtype, backend):
    """Of blocks that are whole and of blocks that are not, with steps enough to fill their buffers in turn."""
    for rows in (17, 64, 100):
        check_products(weight(name, MANY), dtype, rows, seed=rows)
    with tuned(qmm_threadgroups=dict.fromkeys((32, 64, 128), 1)):
        check_products(weight(name, LONG), dtype, 300)


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(FORMATS, DTYPES), indirect=["backend"])
def test_single_inputs_pick_exact_weights(name, dtype, backend):
    for rows in (1, 7, 16, 17):
        check_single_inputs(weight(name), dtype, rows)


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(SCALED, DTYPES), indirect=["backend"])
def test_single_inputs_pick_exact_weights_of_whole_blocks(name, dtype, backend):
    """Where qmm may have an arithmetic of their own for whole numbers times a scale."""
    check_single_inputs(small_and_large(name), dtype, 150)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 2), (0,), (2, 0)])
@pytest.mark.parametrize("name", ["q8_0", "gptq3"])
def test_leading_axes(name, shape, backend):
    packed = weight(name)
    x = numbers(np.random.default_rng(1), (*shape, packed.in_features), mx.float16)
    found = packed.linear(x)
    assert found.shape == (*shape, packed.out_features)
    if found.size:
        rows, results = x.reshape(-1, packed.in_features), found.reshape(-1, packed.out_features)
        check_near(packed, results, rows, exact(packed).T, name)


@dtypes
@pytest.mark.parametrize("name", ["q4_k", "awq4"])
def test_a_strided_x(name, dtype, backend):
    packed = weight(name)
    x = numbers(np.random.default_rng(2), (packed.in_features, 6), dtype).T[::2]
    check_near(packed, packed.linear(x), x, exact(packed).T, name)


@pytest.mark.parametrize("name", ["q4_0", "awq4"])
def test_a_value_that_is_not_finite_stays_in_its_row(name, backend):
    packed = weight(name)
    x = np.ones((3, packed.in_features), np.float32)
    x[1, 5] = np.nan
    found = np.array(packed.linear(mx.array(x)))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_a_group_without_inputs_has_no_say(backend):
    """Of three, the second has no inputs, and scales that are not finite."""
    codes = mx.array(np.random.default_rng(3).integers(-(1 << 31), 1 << 31, (8, 40)), mx.int32)
    scales = mx.array(np.array([[0.5], [np.inf], [2.0]]) * np.ones(40), mx.float16)
    groups = mx.array(np.arange(64) % 2 * 2, mx.int32)
    packed = mxd.GPTQWeight(codes, scales, mx.zeros((3, 5), mx.int32), groups, bits=4, group_size=32)
    x = numbers(np.random.default_rng(4), (2, 64), mx.float32)
    check_near(packed, packed.linear(x), x, exact(packed).T, "gptq4")


@pytest.mark.parametrize("shape", [(0, 32), (4, 0)])
def test_a_weight_of_no_size(shape, backend):
    packed = mxd.GGUFWeight(np.zeros((shape[0], shape[1] // 32 * 34), np.uint8), "Q8_0")
    found = packed.linear(mx.ones((2, packed.in_features)))
    assert np.array_equal(np.array(found), np.zeros((2, shape[0])))


@pytest.mark.parametrize("name", ["q8_0", "gptq4"])
def test_bias(name, backend):
    packed = weight(name)
    rng = np.random.default_rng(3)
    x = numbers(rng, (5, packed.in_features), mx.float16)
    for bias_dtype in DTYPES:
        bias = numbers(rng, (packed.out_features,), bias_dtype)
        expected = packed.linear(x) + bias.astype(mx.float16)
        found = mxd.linear(x, packed, bias)
        assert found.dtype == mx.float16
        assert np.array_equal(np.array(found), np.array(expected))


@pytest.mark.parametrize(
    ("x", "bias", "message"),
    [
        (mx.ones((2, 33)), None, r"x: found shape \(2, 33\), expected a last axis of 32 inputs"),
        (mx.ones(()), None, r"x: found shape \(\), expected a last axis of 32 inputs"),
        (mx.ones((2, 32), mx.int32), None, "x: found mlx.core.int32, expected float16, bfloat16 or float32"),
        (mx.ones((2, 32)), mx.ones(5), r"bias: found shape \(5,\), expected \(4,\)"),
        (mx.ones((2, 32)), mx.ones((1, 4)), r"bias: found shape \(1, 4\), expected \(4,\)"),
        (mx.ones((2, 32)), mx.ones(4, mx.complex64), "bias: found mlx.core.complex64, expected float16"),
    ],
)
def test_what_does_not_fit_is_refused(x, bias, message, backend):
    packed = mxd.GGUFWeight(np.zeros((4, 34), np.uint8), "Q8_0")
    with pytest.raises(mxd.FormatError, match=message):
        packed.linear(x, bias)


def test_a_stack_is_refused(backend):
    packed = mxd.GGUFWeight(np.zeros((2, 4, 34), np.uint8), "Q8_0")
    with pytest.raises(mxd.FormatError, match=r"weight: found shape \(2, 4, 32\), expected a matrix"):
        packed.linear(mx.ones((1, 32)))
    with pytest.raises(mxd.FormatError, match=r"weight: found shape \(2, 4, 32\), expected a matrix"):
        packed.take(mx.array([0]))


def test_what_is_no_quantized_weight_is_refused(backend):
    x, dense = mx.ones((2, 32)), mx.ones((4, 32))
    packed = mxd.GGUFWeight(np.zeros((4, 34), np.uint8), "Q8_0")
    for call in (
        lambda: mxd.linear(x, dense),
        lambda: mxd.take(dense, mx.array([0])),
        lambda: mxd.nn.PackedLinear(dense),
    ):
        with pytest.raises(mxd.FormatError, match="weight: found array, expected a quantized weight"):
            call()
    with pytest.raises(mxd.FormatError, match=r"bias: found ndarray, expected an mx\.array"):
        packed.linear(x, np.ones(4, np.float32))
    with pytest.raises(mxd.FormatError, match=r"dtype: found mlx\.core\.int32, expected float32"):
        mxd.nn.PackedEmbedding(packed, mx.int32)
    assert mxd.stack(iter([packed, packed])).shape == (2, 4, 32)
