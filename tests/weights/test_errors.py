"""Every bad input is refused by name: the tensor, what was found, what was expected."""

import re
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd


def ints(*shape):
    return np.zeros(shape, np.int32)


def halves(*shape):
    return np.zeros(shape, np.float16)


def gguf(blocks=None, type="Q4_0", **more):
    return mxd.GGUFWeight(np.zeros((2, 36), np.uint8) if blocks is None else blocks, type, **more)


def awq(**more):
    """128 inputs in two groups, 16 outputs."""
    good = {"qweight": ints(128, 2), "scales": halves(2, 16), "qzeros": ints(2, 2), "group_size": 64}
    return mxd.AWQWeight(**{**good, **more})


def gptq(**more):
    """128 inputs in two groups, 16 outputs."""
    good = {"qweight": ints(16, 16), "scales": halves(2, 16), "qzeros": ints(2, 2), "group_size": 64}
    return mxd.GPTQWeight(**{**good, **more})


def ct(**more):
    """10 outputs, 100 inputs in four groups."""
    good = {"weight_packed": ints(10, 13), "weight_scale": halves(10, 4), "weight_shape": (10, 100), "group_size": 32}
    return mxd.CompressedTensorsWeight(**{**good, **more})


def index(*groups):
    return np.resize(np.array(groups, np.int32), 128)


# What is made, and the start, the middle and the end of what is said.
GGUF = [
    (lambda: gguf(type="Q9_9"), "type", "'Q9_9'", "one of F32, F16, BF16, Q4_0"),
    (lambda: gguf(type="gptq4"), "type", "'gptq4'", "one of F32"),
    (lambda: gguf(type=99), "type", "99", "one of F32"),
    (lambda: gguf(type=None), "type", "None", "one of F32"),
    (lambda: gguf(b"\0" * 36), "blocks", "bytes", "an mx.array or a NumPy array"),
    (lambda: gguf([[0] * 36]), "blocks", "list", "an mx.array or a NumPy array"),
    (lambda: gguf(np.zeros((2, 36), np.int8)), "blocks", "int8", "uint8"),
    (lambda: gguf(np.zeros((2, 9), np.float32)), "blocks", "float32", "uint8"),
    (lambda: gguf(np.zeros((), np.uint8)), "blocks", "no axes", "[..., row bytes]"),
    (lambda: gguf(np.zeros((2, 35), np.uint8)), "blocks", "rows of 35 bytes", "a multiple of 18 (Q4_0)"),
    (lambda: gguf(shape=(2, 63)), "shape", "(2, 63)", "multiple of 32 (Q4_0)"),
    (lambda: gguf(shape=(2, -64)), "shape", "(2, -64)", "multiple of 32 (Q4_0)"),
    (lambda: gguf(shape=()), "shape", "()", "multiple of 32 (Q4_0)"),
    (lambda: gguf(shape=(2.0, 64.0)), "shape", "2.0", "an integer"),
    (lambda: gguf(shape=(3, 64)), "blocks", "72 bytes", "108 for (3, 64) Q4_0"),
    (lambda: gguf(shape=(2**20, 2**20)), "blocks", "72 bytes", "618475290624 for (1048576, 1048576) Q4_0"),
    (lambda: gguf(shape=(2**40, 32)), "shape: axis", "1099511627776", "0 to 2147483647"),
    (lambda: gguf(np.zeros(0, np.uint8), shape=(0, 2**32)), "shape: axis", "4294967296", "0 to 2147483647"),
]

AWQ = [
    (lambda: awq(bits=8), "bits", "8", "one of 4"),
    (lambda: awq(bits=4.0), "bits", "4.0", "an integer"),
    (lambda: awq(group_size=0), "group_size", "0", "a positive integer or -1"),
    (lambda: awq(group_size=-2), "group_size", "-2", "a positive integer or -1"),
    (lambda: awq(group_size="64"), "group_size", "'64'", "an integer"),
    (lambda: awq(qweight=None), "qweight", "NoneType", "an mx.array or a NumPy array"),
    (lambda: awq(qweight=np.zeros((128, 2), np.int64)), "qweight", "int64", "int32"),
    (lambda: awq(qweight=ints(128)), "qweight", "1 axes (128,)", "2"),
    (lambda: awq(scales=ints(2, 16)), "scales", "int32", "float16, bfloat16 or float32"),
    (lambda: awq(scales=np.zeros((2, 16))), "scales", "float64", "a type that MLX has"),
    (lambda: awq(scales=halves(2, 16, 1)), "scales", "3 axes", "2"),
    (lambda: awq(scales=halves(1, 16)), "scales", "shape (1, 16)", "(2, 16) (in 128, out 16, group_size 64)"),
    (lambda: awq(scales=halves(16, 2)), "scales", "shape (16, 2)", "(2, 16)"),
    (lambda: awq(qzeros=ints(2, 1)), "qzeros", "shape (2, 1)", "(2, 2)"),
    (lambda: awq(qzeros=halves(2, 2)), "qzeros", "float16", "int32"),
]

GPTQ = [
    (lambda: gptq(bits=5), "bits", "5", "one of 2, 3, 4, 8"),
    (lambda: gptq(bits="4"), "bits", "'4'", "an integer"),
    (lambda: gptq(zero_points="v3"), "zero_points", "'v3'", "one of 'v1', 'v1-field', 'v2'"),
    (lambda: gptq(group_size=-128), "group_size", "-128", "a positive integer or -1"),
    (lambda: gptq(bits=3), "qweight", "16 rows", "a multiple of 3 (32 codes of 3 bits)"),
    (lambda: gptq(qweight=ints(16, 12)), "qweight", "12 outputs", "a multiple of 8"),
    (lambda: gptq(bits=3, qweight=ints(3, 16)), "qweight", "16 outputs", "a multiple of 32"),
    (lambda: gptq(scales=halves(3, 16)), "scales", "(3, 16)", "(2, 16) (in 128, out 16, group_size 64, 4 bits)"),
    (lambda: gptq(qzeros=ints(2, 16)), "qzeros", "(2, 16)", "(2, 2)"),
    (lambda: gptq(group_size=-1), "scales", "(2, 16)", "(1, 16)"),
    (lambda: gptq(g_idx=[0] * 128), "g_idx", "list", "an mx.array or a NumPy array"),
    (lambda: gptq(g_idx=index(0).astype(np.float32)), "g_idx", "float32", "int32"),
    (lambda: gptq(g_idx=index(0)[:127]), "g_idx", "(127,)", "(128,) (a group for each input)"),
    (lambda: gptq(g_idx=index(0, 2)), "g_idx", "groups 0 to 2", "0 to 1 (2 rows of scales)"),
    (lambda: gptq(g_idx=index(-1, 1)), "g_idx", "groups -1 to 1", "0 to 1 (2 rows of scales)"),
    (lambda: gptq(g_idx=mx.array(index(1, 2**31 - 1))), "g_idx", "groups 1 to 2147483647", "0 to 1"),
    (lambda: gptq(g_idx=index(0), scales=halves(3, 16)), "qzeros", "(2, 2)", "(3, 2)"),
]

CT = [
    (lambda: ct(bits=1), "bits", "1", "one of 2, 3, 4, 8"),
    (lambda: ct(group_size=0), "group_size", "0", "a positive integer or -1"),
    (lambda: ct(weight_shape=(10,)), "weight_shape", "(10,)", "(out, in)"),
    (lambda: ct(weight_shape=(10, 10, 10)), "weight_shape", "(10, 10, 10)", "(out, in)"),
    (lambda: ct(weight_shape=(10, -100)), "weight_shape", "(10, -100)", "(out, in)"),
    (lambda: ct(weight_shape=(10.0, 100.0)), "weight_shape", "10.0", "an integer"),
    (lambda: ct(weight_shape=None), "weight_shape", "None", "an integer"),
    (lambda: ct(weight_shape=(10, 2**32)), "weight_shape: in", "4294967296", "0 to 2147483647"),
    (lambda: ct(weight_shape=(2**40, 100)), "weight_shape: out", "1099511627776", "0 to 2147483647"),
    (lambda: ct(weight_shape=(10, 97 + 8)), "weight_packed", "(10, 13)", "(10, 14)"),
    (lambda: ct(weight_shape=(11, 100)), "weight_packed", "(10, 13)", "(11, 13)"),
    (lambda: ct(weight_packed=halves(10, 13)), "weight_packed", "float16", "int32"),
    (lambda: ct(weight_scale=halves(10, 3)), "weight_scale", "(10, 3)", "(10, 4)"),
    (lambda: ct(weight_scale=halves(10)), "weight_scale", "1 axes (10,)", "2"),
    (lambda: ct(group_size=-1), "weight_scale", "(10, 4)", "(10, 1)"),
    (lambda: ct(weight_zero_point=ints(10, 4)), "weight_zero_point", "(10, 4)", "(2, 4)"),
    (lambda: ct(weight_g_idx=np.full(100, 4, np.int32)), "weight_g_idx", "groups 4 to 4", "0 to 3"),
    (
        lambda: ct(weight_g_idx=np.arange(-1, 99, dtype=np.int32)),
        "weight_g_idx",
        "groups -1 to 98",
        "0 to 3",
    ),
    (lambda: ct(weight_g_idx=index(0)), "weight_g_idx", "(128,)", "(100,)"),
    (lambda: ct(weight_g_idx=np.full(100, 4, np.uint32)), "weight_g_idx", "groups 4 to 4", "0 to 3"),
    (lambda: ct(weight_g_idx=np.full(100, 255, np.uint8)), "weight_g_idx", "uint8", "int32"),
]

DTYPE = [
    (lambda: gguf().dequantize(mx.int32), "dtype", "mlx.core.int32", "float32, float16 or bfloat16"),
    (lambda: gguf(type="F16").dequantize(mx.float64), "dtype", "mlx.core.float64", "float32, float16 or bfloat16"),
    (lambda: awq().dequantize("float16"), "dtype", "float16", "float32, float16 or bfloat16"),
    (lambda: awq().dequantize(np.dtype("float16")), "dtype", "float16", "float32, float16 or bfloat16"),
]


@pytest.mark.parametrize(
    "make, name, found, expected",
    GGUF + AWQ + GPTQ + CT + DTYPE,
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_refused_by_name(make, name, found, expected):
    with pytest.raises(mxd.FormatError) as caught:
        make()
    said = str(caught.value)
    assert re.match(rf"{re.escape(name)}: found ", said), said
    before, _, after = said.partition(", expected ")
    assert found in before, said
    assert expected in after, said


def test_a_format_error_is_a_value_error():
    assert issubclass(mxd.FormatError, ValueError)


@pytest.mark.parametrize("make", [gguf, awq, gptq, ct])
def test_what_the_mistakes_start_from_is_right(make):
    weight = make()
    assert weight.dequantize().shape == weight.shape


@pytest.mark.parametrize("size", [2**31, 2**32, 2**70])
def test_groups_larger_than_any_weight(size, backend):
    """One group, whatever number says so: none is cut to the 32 bits that shaders read."""
    rng = np.random.default_rng(0)
    qweight, zeros = (rng.integers(-(2**31), 2**31, shape, np.int64).astype(np.int32) for shape in ((128, 2), (1, 2)))
    weights = [awq(qweight=qweight, scales=halves(1, 16) + 1, qzeros=zeros, group_size=g) for g in (size, -1)]
    found, expected = (np.array(weight.dequantize()) for weight in weights)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("weight", "each"), [(gguf, 2), (awq, 2), (ct, 13)], ids=["blocks", "codes along rows", "codes"]
)
def test_more_than_shaders_count(weight, each):
    matrix = weight().matrix
    rows = -(-(2**32) // each)
    assert replace(matrix, rows=rows - 1).rows == rows - 1
    for field in ({"rows": rows}, {"arrays": {"scales": SimpleNamespace(shape=(rows * each,))}}):
        found = f"found {rows * each} blocks, words or scales, expected fewer than {2**32}"
        with pytest.raises(mxd.FormatError, match=found):
            replace(matrix, **field)
