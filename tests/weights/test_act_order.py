"""Weights with act-order, sorted by group for the GPU's products."""

import mlx.core as mx
import numpy as np
import pytest
from product_cases import FORMATS, check_products, exact, numbers, shuffled

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.dispatch import FEW_ROWS

NAMES = [name for name, form in FORMATS.items() if form.family in ("gptq", "compressed_tensors")]
UNEVEN = np.arange(128) % 3 % 2  # 86 of group 0, 42 of group 1


@pytest.mark.parametrize("inputs", [320, 300])
@pytest.mark.parametrize("name", NAMES)
def test_sorted_weights_are_the_same(name, inputs):
    """Each input's weights, to the bit; the last group may be short."""
    packed = shuffled(name, inputs)
    found = packed.sort_by_group()
    assert found is not None and not found.weight.has_g_idx and found.weight.format == packed.format
    group = np.array(packed.inputs["g_idx"])[np.array(found.perm)]
    np.testing.assert_array_equal(group, np.arange(packed.in_features) // 32)
    np.testing.assert_array_equal(exact(found.weight), exact(packed)[:, np.array(found.perm)])
    np.testing.assert_array_equal(exact(found.weight)[:, np.array(found.inv_perm)], exact(packed))


def test_parts_are_sorted_alike(monkeypatch):
    """Codes are unpacked a few outputs at a time."""
    for name in ("gptq3", "ct4"):
        whole = shuffled(name).sort_by_group()
        monkeypatch.setattr("mlx_dequant.weights.act_order.UNPACKED", 4 * 320 * 7)
        parts = shuffled(name).sort_by_group()
        monkeypatch.undo()
        np.testing.assert_array_equal(exact(parts.weight), exact(whole.weight))


@pytest.mark.parametrize("name", ["gptq4", "ct4"])
@pytest.mark.parametrize(
    ("size", "group"),
    [(16, None), (64, UNEVEN), (64, np.zeros(128)), (64, np.ones(128))],
    ids=["groups of 16", "of two sizes", "the last one empty", "the first one empty"],
)
def test_what_cannot_be_sorted_stays(name, size, group):
    packed = shuffled(name, 128, size=size, group=group)
    found = packed.sort_by_group()
    if group is not None and not group.any():
        assert found.weight.layout[0] == 128
        np.testing.assert_array_equal(exact(found.weight), exact(packed))
    else:
        assert found is None and packed.has_g_idx


def test_weights_in_order_are_not_sorted():
    for name in ("gptq4", "ct4", "awq4"):
        packed = sample_weights.groups(name, np.random.default_rng(0), 128, 64, 32)
        assert packed.sort_by_group() is None and not packed.derived


def test_sorted_weights_are_kept_and_nothing_else_changes():
    packed = shuffled("gptq4")
    before = {key: np.array(array) for key, array in packed.inputs.items()}
    found = packed.sort_by_group()
    assert packed.sort_by_group() is found
    assert found.weight.inputs["scales"] is packed.inputs["scales"]
    assert packed.has_g_idx and packed.nbytes == sum(array.nbytes for array in before.values())
    for key, array in before.items():
        np.testing.assert_array_equal(np.array(packed.inputs[key]), array)
    other = packed.replace(scales=2 * packed.inputs["scales"])
    np.testing.assert_array_equal(exact(other.sort_by_group().weight), 2 * exact(found.weight))


@pytest.mark.parametrize("backend", mxd.available_backends())
@pytest.mark.parametrize("name", ["gptq4", "ct4"])
def test_a_first_product_inside_compile(name, backend):
    packed = shuffled(name, 512, FEW_ROWS)
    x = numbers(np.random.default_rng(0), (3, packed.in_features), mx.float32)
    with mxd.use_backend(backend):
        found = mx.compile(packed.linear)(x)
        mx.eval(found)
        check_products(packed, mx.float32, 3)
        np.testing.assert_allclose(np.array(found), np.array(packed.linear(x)), rtol=1e-4, atol=1e-3)
