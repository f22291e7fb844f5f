"""Act-order in stacks: experts sorted each by its own groups, and stacks that cannot be sorted."""

from dataclasses import replace
from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from devices import exact_matmul, generation
from emulated_kernels import needs_compiler
from expert_cases import EXPERTS, check_experts, chosen, experts
from product_cases import UNSORTED, check_products, shuffled, weight

import mlx_dequant as mxd
from mlx_dequant.backends import reference
from mlx_dequant.backends.gpu import act_order, launch
from mlx_dequant.backends.gpu.act_order import sort_by_group
from mlx_dequant.backends.gpu.operands import operands_of
from mlx_dequant.diagnostics import sample_weights

full = pytest.mark.full
NAMES = ("gptq3", "gptq4", "ct3", "ct4")
PLATFORMS = {"metal": (emulator.metal, 0), "cuda": (emulator.cuda, 90)}


def exact(matrix):
    """float32 [out, in]."""
    dense = reference.weights(matrix)
    return dense.T if matrix.layout == "KN" else dense


def stack_of(name, *kinds, inputs=300):
    """An expert a kind, in groups of 32 of which the last is shorter."""
    rng = np.random.default_rng(len(name))
    return mxd.stack(
        [sample_weights.groups(name, rng, inputs, 64, 32, plain=True, g_idx=kind) for kind in kinds]
    ).matrix


@pytest.mark.parametrize("name", NAMES)
def test_a_sorted_stack_is_the_same(name):
    """Each expert's weights, to the bit, in an order of its own; one has no act-order."""
    matrix = stack_of(name, "shuffled", "", "shuffled")
    found = sort_by_group(matrix)
    assert sort_by_group(matrix) is found and not found.has_g_idx and found.group_size == 32
    assert (found.perm.shape, found.inv_perm) == ((3, matrix.K), None)
    orders = np.array(found.perm)
    assert (orders[1] == np.arange(matrix.K)).all() and (orders[0] != orders[2]).any()
    for number, order in enumerate(orders):
        expert = exact(matrix.expert(number))
        np.testing.assert_array_equal(exact(found.expert(number)), expert[:, order])


def test_a_stack_is_sorted_an_expert_at_a_time(monkeypatch):
    """MLX writes into the new stack: beside it there is an expert or two."""
    matrix = stack_of("gptq4", *["shuffled"] * 24, inputs=1024)
    codes = matrix.arrays["qweight"].nbytes
    monkeypatch.setattr(act_order, "CHUNK_BYTES", 4 * 1024 * 8)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    sort_by_group(matrix)
    assert codes <= mx.get_peak_memory() - before < 1.5 * codes


@pytest.mark.parametrize("name", ["gptq4", "ct4"])
@pytest.mark.parametrize("other", ["uneven", "of another size"])
def test_a_stack_of_which_one_expert_cannot_be_sorted_stays(name, other):
    matrix = stack_of(name, "shuffled", "uneven" if other == "uneven" else "shuffled", inputs=128)
    if other == "of another size":
        index = np.array(matrix.arrays["g_idx"])
        index[1] = np.arange(128) // 64
        matrix = replace(matrix, arrays={**matrix.arrays, "g_idx": mx.array(index)}, cache={})
    assert sort_by_group(matrix) is None
    operands = operands_of(matrix)
    again = operands.like(operands.arrays)
    assert again.has_g_idx and again.perm is None


@needs_compiler
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["gptq4", "ct3"])
def test_what_cannot_be_sorted_is_dequantized(name, platform):
    """By few rows of x and many, a matrix and a stack, both ways: no other kernel is launched."""
    device, known = PLATFORMS[platform]
    launched = set()
    real = launch.kernel.__wrapped__

    def kernel(platform, form, spec, *types):
        launched.add(spec.name)
        return real(platform, form, spec, *types)

    with exact_matmul(), generation(known), device(), patch.object(launch, "kernel", kernel):
        check_products(weight(name, UNSORTED), mx.float16, 1)
        check_products(weight(name, UNSORTED), mx.float32, 20)
        for dtype, shape in ((mx.float32, (2, 3)), (mx.float16, (20, 1))):
            check_experts(name, dtype, chosen("from the end", *shape), UNSORTED)
    assert launched == {"dequantize"}


@needs_compiler
def test_an_id_out_of_range_gives_nan():
    packed, _ = experts("gptq4", UNSORTED)
    outside = [EXPERTS, -EXPERTS - 1, 2**31 - 1, -(2**31), 2**31, 2**32 + 1]
    x = mx.ones((1, packed.in_features))
    with exact_matmul(), emulator.metal():
        found = np.array(packed.gather_linear(x, mx.array([[1, *outside, -1]], mx.int64)))[0]
        unsigned = np.array(packed.gather_linear(x, mx.array([[1, EXPERTS, 2**32 - 1]], mx.uint32)))[0]
        inside = np.array(packed.gather_linear(x, mx.array([[1, EXPERTS - 1]])))[0]
    assert np.array_equal(found[[0, -1]], inside) and np.isnan(found[1:-1]).all()
    assert np.array_equal(unsigned[0], inside[0]) and np.isnan(unsigned[1:]).all()


@full
@needs_compiler
@pytest.mark.parametrize("name", ["gptq2", "gptq8", "ct2", "ct8"])
def test_other_widths(name):
    for device, known in PLATFORMS.values():
        with exact_matmul(), generation(known), device():
            check_experts(name, mx.float16, chosen("any", 3, 2), UNSORTED)
            check_products(shuffled(name), mx.float16, 6)
