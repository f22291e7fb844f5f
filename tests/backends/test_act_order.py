"""Act-order: matrices sorted by group for a GPU's products."""

import threading

import mlx.core as mx
import numpy as np
import pytest
from product_cases import FORMATS, check_products, numbers, shuffled

import mlx_dequant as mxd
from mlx_dequant import tuning
from mlx_dequant.backends import reference
from mlx_dequant.backends.gpu import act_order
from mlx_dequant.backends.gpu.act_order import sort_by_group
from mlx_dequant.diagnostics import sample_weights

NAMES = [name for name, form in FORMATS.items() if form.family in ("gptq", "compressed_tensors")]
UNEVEN = np.arange(128) % 3 % 2  # 86 of group 0, 42 of group 1


def exact(matrix):
    """float32 [out, in]."""
    dense = reference.weights(matrix)
    return dense.T if matrix.layout == "KN" else dense


@pytest.mark.parametrize("inputs", [320, 300])
@pytest.mark.parametrize("name", NAMES)
def test_a_sorted_matrix_is_the_same(name, inputs):
    """Each input's weights, to the bit; the last group may be short."""
    matrix = shuffled(name, inputs).matrix
    found = sort_by_group(matrix)
    assert found is not None and not found.has_g_idx and found.format == matrix.format
    assert found.group_size == 32
    group = np.array(matrix.arrays["g_idx"])[np.array(found.perm)]
    np.testing.assert_array_equal(group, np.arange(matrix.K) // 32)
    np.testing.assert_array_equal(exact(found), exact(matrix)[:, np.array(found.perm)])
    np.testing.assert_array_equal(exact(found)[:, np.array(found.inv_perm)], exact(matrix))


def test_parts_are_sorted_alike(monkeypatch):
    """Codes are unpacked a few outputs at a time."""
    for name in ("gptq3", "ct4"):
        whole = sort_by_group(shuffled(name).matrix)
        monkeypatch.setattr(act_order, "CHUNK_BYTES", 4 * 320 * 7)
        parts = sort_by_group(shuffled(name).matrix)
        monkeypatch.undo()
        np.testing.assert_array_equal(exact(parts), exact(whole))


@pytest.mark.parametrize("name", ["gptq4", "ct4"])
@pytest.mark.parametrize(
    ("size", "group"),
    [(16, None), (64, UNEVEN), (64, np.zeros(128)), (64, np.ones(128))],
    ids=["groups of 16", "of two sizes", "the last one empty", "the first one empty"],
)
def test_what_cannot_be_sorted_stays(name, size, group):
    matrix = shuffled(name, 128, size=size, group=group).matrix
    found = sort_by_group(matrix)
    if group is not None and not group.any():
        assert found.group_size == 128
        np.testing.assert_array_equal(exact(found), exact(matrix))
    else:
        assert found is None and matrix.has_g_idx


def test_a_matrix_without_g_idx_is_not_sorted():
    for name in ("gptq4", "ct4", "awq4"):
        matrix = sample_weights.groups(name, np.random.default_rng(0), 128, 64, 32).matrix
        assert sort_by_group(matrix) is None and not matrix.cache


def test_a_sorted_matrix_is_kept_and_nothing_else_changes():
    packed = shuffled("gptq4")
    before = {key: np.array(array) for key, array in packed.arrays.items()}
    found = sort_by_group(packed.matrix)
    assert sort_by_group(packed.matrix) is found
    assert found.arrays["scales"] is packed.arrays["scales"]
    assert found.cache is not packed.matrix.cache
    assert packed.matrix.has_g_idx and packed.nbytes == sum(array.nbytes for array in before.values())
    for key, array in before.items():
        np.testing.assert_array_equal(np.array(packed.arrays[key]), array)
    other = packed.replace(scales=2 * packed.arrays["scales"])
    np.testing.assert_array_equal(exact(sort_by_group(other.matrix)), 2 * exact(found))


@pytest.mark.parametrize("backend", mxd.available_backends())
@pytest.mark.parametrize("name", ["gptq4", "ct4"])
def test_a_first_product_inside_compile(name, backend):
    packed = shuffled(name, 512, tuning.METAL.few_rows)
    x = numbers(np.random.default_rng(0), (3, packed.in_features), mx.float32)
    with mxd.use_backend(backend):
        found = mx.compile(packed.linear)(x)
        mx.eval(found)
        check_products(packed, mx.float32, 3)
        np.testing.assert_allclose(np.array(found), np.array(packed.linear(x)), rtol=1e-4, atol=1e-3)


def test_what_one_thread_sorts_another_can_read():
    """A lazy array would belong to the thread that made it."""
    matrix = shuffled("gptq4").matrix
    thread = threading.Thread(target=sort_by_group, args=(matrix,))
    thread.start()
    thread.join()
    found = sort_by_group(matrix)
    np.testing.assert_array_equal(exact(found), exact(matrix)[:, np.array(found.perm)])
