"""Products on a GPU are decided once for a kind of matrix, a number of rows of x and a type."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import needs_compiler
from product_cases import check_near, exact, numbers, shuffled
from support import freed_at_once

import mlx_dequant as mxd
from mlx_dequant import backends, dispatch
from mlx_dequant.backends.gpu import dequantize, launch, matmul

pytestmark = needs_compiler


def q8_0():
    blocks = np.random.default_rng(0).integers(0, 256, (40, 2 * 34), np.uint8)
    blocks.reshape(-1, 34)[:, :2] = np.array([0.25], np.float16).view(np.uint8)
    return mxd.GGUFWeight(blocks, "Q8_0")


@contextmanager
def kept():
    """The Metal backend as users have it; what it asks the dispatcher for a product."""
    plans = []
    plan = dispatch.plan

    def asked(device, matrix, M, dtype, operation):
        plans.append((M, dtype, operation))
        return plan(device, matrix, M, dtype, operation)

    launch.bound.clear()
    with (
        emulator.metal(),
        patch.object(backends.metal, "matmul", partial(matmul.matmul, "metal")),
        patch.object(backends.metal, "dequantize", partial(dequantize.dequantize, "metal")),
        patch.object(dispatch, "plan", asked),
    ):
        yield plans
    launch.bound.clear()


def check(packed, M, dtype):
    x = numbers(np.random.default_rng(M), (M, packed.in_features), dtype)
    check_near(packed, packed.linear(x), x, exact(packed).T, f"{M} {dtype}")


@pytest.mark.parametrize("make", [q8_0, lambda: shuffled("gptq4")], ids=["q8_0", "act-order"])
def test_a_product_is_decided_once(make):
    packed = make()
    operation = dispatch.MATMUL if packed.matrix.layout == "KN" else dispatch.MATMUL_T
    with kept() as plans:
        for _ in range(3):
            for M in (1, 9, 17):
                check(packed, M, mx.float16)
            check(packed, 1, mx.bfloat16)
    assert plans == [(M, "float16", operation) for M in (1, 9, 17)] + [(1, "bfloat16", operation)]


def test_matrices_of_a_kind_share_a_decision():
    with kept() as plans:
        for packed in (q8_0(), q8_0()):
            check(packed, 1, mx.float16)
        check(shuffled("gptq4"), 1, mx.float16)
        check(shuffled("gptq4"), 1, mx.float16)
    assert len(plans) == 2


@pytest.mark.parametrize("rows", [2, 20, 400])
@pytest.mark.parametrize("make", [q8_0, lambda: shuffled("gptq4")], ids=["q8_0", "act-order"])
def test_axes_in_front_are_kept(make, rows):
    packed = make()
    x = numbers(np.random.default_rng(rows), (rows, packed.in_features), mx.float16)
    with kept():
        flat = packed.linear(x)
        found = packed.linear(x.reshape(2, -1, 1, packed.in_features))
        vector = packed.linear(x[0])
    assert found.shape == (2, rows // 2, 1, packed.out_features)
    assert mx.array_equal(found.reshape(flat.shape), flat)
    assert vector.shape == (packed.out_features,)


def test_both_directions_are_kept_apart():
    packed = q8_0()
    x, cotangent = mx.ones((2, 64)), mx.ones((2, 40))
    with kept() as plans:
        for _ in range(2):
            gradient = mx.vjp(packed.linear, [x], [cotangent])[1][0]
            check_near(packed, gradient, cotangent, exact(packed), "gradient")
    assert sorted(plans) == [(2, "float32", "matmul"), (2, "float32", "matmul_t")]


def test_a_bounded_number_is_kept():
    packed = q8_0()
    with kept(), patch.object(launch.bound, "limit", 3):
        for M in (1, 2, 3, 4, 1, 5):
            check(packed, M, mx.float32)
            assert 1 <= len(launch.bound) <= 3


def test_what_is_kept_does_not_keep_the_weight():
    """A dropped weight frees its memory at once, before Python looks for circles."""
    packed = q8_0()
    with kept():
        packed.linear(mx.ones((2, 64)))
        packed.linear(mx.ones((400, 64), mx.float16))
        packed.dequantize()
    with freed_at_once(packed.matrix):
        del packed


def test_values_of_the_type_of_x_are_multiplied_without_a_kernel_or_a_copy():
    values = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float16)
    packed = mxd.GGUFWeight(values.view(np.uint8), "F16")
    x = numbers(np.random.default_rng(1), (20, 64), mx.float16)
    with kept(), patch.object(matmul, "bind", side_effect=AssertionError("a launch")):
        mx.eval(x)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        found = packed.linear(x)
        mx.eval(found)
        assert mx.get_peak_memory() - before < values.nbytes
    check_near(packed, found, x, exact(packed).T, "dense")
