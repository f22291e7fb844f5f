"""Products with experts of a stack: as near to exact as linear's, in every format, both ways."""

import re

import mlx.core as mx
import numpy as np
import pytest
from expert_cases import CHOICES, EXPERTS, check_experts, chosen, experts
from product_cases import FORMATS, SIZES, numbers, on_backends
from support import DTYPES

import mlx_dequant as mxd
from mlx_dequant import backends

full = pytest.mark.full


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(FORMATS, DTYPES), indirect=["backend"])
def test_products(name, dtype, backend):
    for at, kind in enumerate(CHOICES):
        check_experts(name, dtype, chosen(kind, 3, 1 + at % 4), SIZES[at % 2])


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("kind", [kind for kind in CHOICES if kind != "each once"])
@pytest.mark.parametrize("name", ["q4_k", pytest.param("gptq4", marks=full), pytest.param("ct3", marks=full)])
def test_choices(name, kind, k, backend):
    for M in (1, 2, 33):
        check_experts(name, mx.float32, chosen(kind, M, k), gradient=M < 33)


@pytest.mark.parametrize("name", ["q8_0", *(pytest.param(name, marks=full) for name in ("awq4", "gptq3", "ct4"))])
def test_many_rows(name, backend):
    check_experts(name, mx.float16, chosen("any", 300, 2), gradient=False)
    check_experts(name, mx.bfloat16, chosen("sorted", 300, 2), SIZES[1], gradient=False)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("name", ["q8_0", "gptq4"])
def test_leading_axes(name, leading, backend):
    packed, dense = experts(name)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, EXPERTS, (*leading, 2))
    for shape in (leading, ids.shape):
        x = numbers(rng, (*shape, packed.in_features), mx.float32)
        found = packed.gather_linear(x, mx.array(ids))
        expected = np.einsum("...i,...oi->...o", x if x.ndim > ids.ndim else np.array(x)[..., None, :], dense[ids])
        assert found.shape == (*ids.shape, packed.out_features) == expected.shape
        assert np.abs(np.array(found) - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=1)


def test_no_choices(backend):
    packed, _ = experts("q8_0")
    ids = mx.zeros((3, 0), mx.int32)
    assert packed.gather_linear(mx.ones((3, packed.in_features)), ids).shape == (3, 0, packed.out_features)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_ids_of_every_kind(kind, backend):
    packed, _ = experts("q4_0")
    x = mx.ones((1, packed.in_features))
    found = packed.gather_linear(x, mx.array([[3, 1]], getattr(mx, kind)))
    assert np.array_equal(np.array(found), np.array(packed.gather_linear(x, mx.array([[3, 1]]))))


@pytest.mark.parametrize("outside", [5, -6, 2**31 - 1, 2**31, 2**32, 2**32 + 1, -(2**32)])
@pytest.mark.parametrize("name", ["q8_0", "awq4"])
def test_an_id_out_of_range(name, outside, backend):
    """The host and the reference see the values and raise; a GPU gives NaN."""
    packed, _ = experts(name)
    x, ids = mx.ones((1, packed.in_features)), mx.array([[1, outside]], mx.int64)
    if backends.on_gpu():
        found = np.array(packed.gather_linear(x, ids))
        assert np.isnan(found[0, 1]).all() and np.isfinite(found[0, 0]).all()
    else:
        with pytest.raises(IndexError, match=rf"ids: found .*{abs(outside)}.*, expected -5 to 4"):
            packed.gather_linear(x, ids)


@pytest.mark.parametrize("name", ["q8_0", "awq4"])
def test_an_id_out_of_range_while_a_function_is_compiled(name, backend):
    packed, _ = experts(name)
    x = mx.ones((1, packed.in_features))
    for k in (3, 9):  # few and many, for an expert each
        ids = mx.array([[1, 5, *range(k - 2)]]) % 6
        found = np.array(mx.compile(lambda x, ids: packed.gather_linear(x, ids))(x, ids))
        outside = np.array(ids[0]) == 5
        assert outside.any() and np.isnan(found[0, outside]).all() and np.isfinite(found[0, ~outside]).all()


@pytest.mark.parametrize(
    ("x", "ids", "message"),
    [
        (mx.ones((2, 33)), mx.array([[0], [1]]), r"x: found shape \(2, 33\), expected a last axis of 32 inputs"),
        (mx.ones((2, 32), mx.int32), mx.array([[0], [1]]), "x: found mlx.core.int32, expected float16, bfloat16"),
        (mx.ones((2, 32)), mx.array([[0.0], [1.0]]), "ids: found mlx.core.float32, expected integers"),
        (np.ones((2, 32), np.float32), mx.array([[0], [1]]), "x: found ndarray, expected an mx.array"),
        (mx.ones((2, 32)), np.array([[0], [1]]), "ids: found ndarray, expected an mx.array"),
        (mx.ones((2, 32)), mx.array(0), r"ids: found shape \(\) beside x \(2, 32\), expected \(2, k\), or \(2,\)"),
        (mx.ones((2, 32)), mx.array([[0], [1], [1]]), r"ids: found shape \(3, 1\) beside x \(2, 32\), expected"),
        (mx.ones((2, 3, 32)), mx.array([[0, 1], [1, 1]]), r"ids: found shape \(2, 2\) beside x \(2, 3, 32\)"),
        (mx.ones(32), mx.array([[0]]), r"ids: found shape \(1, 1\) beside x \(32,\), expected \(k,\)"),
    ],
)
def test_what_does_not_fit_is_refused(x, ids, message, backend):
    packed = mxd.GGUFWeight(np.zeros((2, 4, 34), np.uint8), "Q8_0")
    with pytest.raises(mxd.FormatError, match=message):
        mxd.gather_linear(x, packed, ids)


@pytest.mark.parametrize("shape", [(4, 32), (0, 4, 32), (1, 2, 4, 32)])
def test_what_is_no_stack_is_refused(shape, backend):
    packed = mxd.GGUFWeight(np.zeros(int(np.prod(shape)) // 32 * 34, np.uint8), "Q8_0", shape)
    message = rf"weight: found shape {re.escape(str(shape))}, expected a stack \[experts, out, in\]"
    with pytest.raises(mxd.FormatError, match=message):
        packed.gather_linear(mx.ones((1, 32)), mx.array([[0]]))


@pytest.mark.parametrize("shape", [(3, 0, 32), (3, 4, 0)])
def test_a_stack_of_no_size(shape, backend):
    packed = mxd.GGUFWeight(np.zeros(int(np.prod(shape)) // 32 * 34, np.uint8), "Q8_0", shape)
    found = packed.gather_linear(mx.ones((2, shape[2])), mx.array([[0], [1]]))
    assert np.array_equal(np.array(found), np.zeros((2, 1, shape[1])))


@pytest.mark.parametrize("name", ["q4_0", "awq4"])
def test_a_value_that_is_not_finite_stays_in_its_row(name, backend):
    packed, _ = experts(name)
    x = np.ones((3, packed.in_features), np.float32)
    x[1, 5] = np.nan
    found = np.array(packed.gather_linear(mx.array(x), mx.array([[0, 1], [1, 2], [2, 0]])))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
