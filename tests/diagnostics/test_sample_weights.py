"""Sample weights are what they say."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.diagnostics import compare, sample_weights

names = pytest.mark.parametrize("name", mxd.formats())


@names
def test_layers_have_ordinary_numbers(name):
    values = compare.exact(sample_weights.layer(name, 70, 320, group_size=64))
    assert values.shape[0] >= 70 and values.shape[1] >= 320
    assert np.isfinite(values).all() and 2**-8 < np.abs(values).max() < 100


@names
def test_weights_for_dequantize_have_extremes(name):
    """Zeros, infinities and NaNs, which NVFP4 has none of."""
    found = np.concatenate([compare.exact(weight).ravel() for weight in sample_weights.for_dequantize(name)])
    assert name == "nvfp4" or not np.isfinite(found).all()
    assert (found == 0).any()


def test_act_order_is_of_the_kind_asked():
    sizes = {}
    for kind in ("shuffled", "uneven"):
        index = np.array(sample_weights.layer("gptq4", 32, 256, group_size=32, g_idx=kind).arrays["g_idx"])
        sizes[kind] = set(np.bincount(index, minlength=8))
        assert (np.diff(index) < 0).any()
    assert sizes["shuffled"] == {32} and len(sizes["uneven"]) > 1


def test_seeds_differ_and_large_layers_do_not_repeat_at_round_distances():
    first, second = (compare.exact(sample_weights.layer("q8_0", 1024, 32, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:512], first[512:])


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=str)
def test_scales_without_subnormals(dtype):
    weight = sample_weights.groups("ct4", np.random.default_rng(0), 512, 256, scales=dtype, subnormals=False)
    scales = np.abs(compare.as_float32(weight.arrays["scales"]))
    assert not ((scales > 0) & (scales < np.finfo(np.float32).tiny)).any()
    assert not np.isfinite(scales).all()
