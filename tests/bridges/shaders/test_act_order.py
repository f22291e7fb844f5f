"""Act-order on torch's tensors: sorted as MLX's backend sorts, or left as it is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the shaders run on torch's tensors")

from mlx_dequant.backends.gpu import act_order as mlx_order  # noqa: E402
from mlx_dequant.bridges.shaders import act_order, matrices  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

FORMATS = ("gptq2", "gptq3", "gptq4", "gptq8", "ct2", "ct3", "ct4", "ct8")


def both(name, inputs=320, **options):
    """A weight's matrix with MLX's arrays, and with torch's."""
    weight = sample_weights.groups(name, np.random.default_rng(4), inputs, 72, **options)
    arrays = {key: None if array is None else to_torch(array, "cpu") for key, array in weight.arrays.items()}
    bits, size = weight.format.bits, options["group_size"]
    if weight.family == "gptq":
        made = matrices.gptq(arrays["qweight"], arrays["scales"], arrays["qzeros"], arrays["g_idx"], size, "v1", bits)
    else:
        made = matrices.compressed_tensors(*arrays.values(), *weight.shape, size, bits)
    return weight.matrix, made


@pytest.mark.parametrize("name", FORMATS)
def test_the_codes_are_those_that_mlx_sorts(name, monkeypatch):
    monkeypatch.setattr(act_order, "CHUNK_BYTES", 4 * 320 * 7)  # several chunks, the last one shorter
    theirs, ours = (
        find(one)
        for find, one in zip(
            (mlx_order.sort_by_group, act_order.sort_by_group), both(name, group_size=64, g_idx="shuffled"), strict=True
        )
    )
    assert ours.loader_params == theirs.loader_params
    assert not ours.has_g_idx
    for name in (ours.family.codes, "perm", "inv_perm"):
        found, expected = (
            (one.arrays.get(name) if name in one.arrays else getattr(one, name)) for one in (ours, theirs)
        )
        np.testing.assert_array_equal(found.numpy(), np.array(expected))


@pytest.mark.parametrize("options", [{"group_size": 16, "g_idx": "shuffled"}, {"group_size": 64, "g_idx": "uneven"}])
def test_groups_that_cannot_be_sorted_stay(options):
    theirs, ours = both("gptq4", **options)
    assert ours.has_g_idx
    assert act_order.sort_by_group(ours) is None
    assert mlx_order.sort_by_group(theirs) is None


def test_a_matrix_is_sorted_once():
    _, ours = both("ct4", group_size=64, g_idx="shuffled")
    assert act_order.sort_by_group(ours) is act_order.sort_by_group(ours)
