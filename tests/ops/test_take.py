"""Look-ups in quantized weights: rows of the [out, in] matrix, exact to the bit."""

import mlx.core as mx
import numpy as np
import pytest
from product_cases import FORMATS, SIZES, exact, on_backends, weight
from support import DTYPES, assert_same, rounded

import mlx_dequant as mxd
from mlx_dequant import backends


@pytest.mark.parametrize(("name", "dtype", "backend"), on_backends(FORMATS, DTYPES), indirect=["backend"])
def test_rows_are_exact(name, dtype, backend):
    for size in SIZES:
        packed = weight(name, size)
        ids = np.array([[1, -1, 3], [3, 0, -packed.out_features]])
        found = packed.take(mx.array(ids), dtype)
        assert_same(found, rounded(exact(packed)[ids].astype(np.float32), dtype), f"{packed} {dtype}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["q6_k", "gptq8"])
def test_types(name, dtype, backend):
    packed = weight(name)
    expected = rounded(exact(packed)[:2].astype(np.float32), dtype)
    assert_same(mxd.take(packed, mx.array([0, 1]), dtype), expected)
    assert packed.take(mx.array([0])).dtype == packed.dtype


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_ids_of_every_kind(kind, backend):
    packed = weight("q4_0")
    found = packed.take(mx.array([3, 1], getattr(mx, kind)), mx.float32)
    assert np.array_equal(np.array(found), exact(packed)[[3, 1]].astype(np.float32))


@pytest.mark.parametrize("ids", [np.zeros((), np.int32), np.zeros((0,), np.int32), np.zeros((2, 0), np.int32)])
def test_the_shape_of_ids(ids, backend):
    packed = weight("awq4")
    assert packed.take(mx.array(ids)).shape == (*ids.shape, packed.in_features)


@pytest.mark.parametrize("outside", [37, -38, 2**31 - 1, 2**31, 2**32, 2**32 + 1, -(2**32)])
def test_an_id_out_of_range(outside, backend):
    """The host and the reference see the values and raise; a GPU gives NaN."""
    packed = weight("q8_0")
    assert packed.out_features == 37
    ids = mx.array([1, outside], mx.int64)
    if backends.on_gpu():
        found = np.array(packed.take(ids, mx.float32))
        assert np.isnan(found[1]).all() and np.isfinite(found[0]).all()
    else:
        with pytest.raises(IndexError, match=rf"ids: found .*{abs(outside)}.*, expected -37 to 36"):
            packed.take(ids)


@pytest.mark.parametrize("ids", [mx.array([1.0]), mx.array([True])])
def test_ids_that_are_no_integers(ids, backend):
    with pytest.raises(mxd.FormatError, match=f"ids: found {ids.dtype}, expected integers"):
        weight("q4_0").take(ids)


def test_ids_that_are_no_array(backend):
    with pytest.raises(mxd.FormatError, match=r"ids: found list, expected an mx\.array"):
        weight("q4_0").take([1])


def test_a_type_that_is_none(backend):
    with pytest.raises(mxd.FormatError, match=r"dtype: found mlx\.core\.int32, expected float32, float16 or bfloat16"):
        weight("q4_0").take(mx.array([0]), mx.int32)
