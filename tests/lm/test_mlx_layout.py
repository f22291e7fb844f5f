"""Codes in MLX's own layout: what MLX dequantizes is the weight, but for the rounding that is reported."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.lm.mlx_layout import mlx_weight

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

# By format: bits and inputs in a group of MLX's, its mode, and the largest error of ordinary numbers.
ROUNDED = 2.0**-9  # scales and biases rounded to float16, biases of up to 15 and 31 scales
EXPECTED = {
    "q4_0": (4, 32, "affine", 0),
    "q4_1": (4, 32, "affine", 0),
    "q5_0": (5, 32, "affine", 0),
    "q5_1": (5, 32, "affine", 0),
    "q8_0": (8, 32, "affine", 0),
    "q4_k": (4, 32, "affine", ROUNDED),
    "q5_k": (5, 32, "affine", ROUNDED),
    "mxfp4": (4, 32, "mxfp4", 0),
    "nvfp4": (4, 16, "nvfp4", 0),
}


def rows(weight) -> np.ndarray:
    exact = np.asarray(weight.dequantize(mx.float32))
    return exact.T if weight.matrix.layout == "KN" else exact


def dequantized(found) -> np.ndarray:
    """By MLX, in float32."""
    arrays = dict(found.arrays)
    if found.settings["mode"] == "affine":
        arrays |= {name: arrays[name].astype(mx.float32) for name in ("scales", "biases")}
        return np.asarray(mx.dequantize(arrays["weight"], arrays["scales"], arrays["biases"], **found.settings))
    return np.asarray(mx.dequantize(arrays["weight"], arrays["scales"], **found.settings, dtype=mx.float32))


def assert_close(found, weight, limit: float) -> None:
    exact = rows(weight)
    error = np.abs(dequantized(found) - exact).max() / np.abs(exact).max()
    assert error <= limit
    assert found.error == pytest.approx(error, rel=1e-3, abs=1e-7)
    assert found.arrays["weight"].dtype == mx.uint32


@pytest.mark.parametrize("name", EXPECTED)
def test_types_of_gguf(name):
    weight = sample_weights.gguf(name, np.random.default_rng(1), 24, 512, plain=True)
    found = mlx_weight(weight)
    bits, size, mode, limit = EXPECTED[name]
    assert found.settings == {"bits": bits, "group_size": size, "mode": mode}
    assert_close(found, weight, limit)


@pytest.mark.parametrize("name", sorted(set(sample_weights.GGUF_FORMATS) - set(EXPECTED)))
def test_types_that_mlx_has_no_layout_for(name):
    assert mlx_weight(sample_weights.gguf(name, np.random.default_rng(1), 4, 256, plain=True)) is None


@pytest.mark.parametrize("size", [32, 64, 128, 256, -1])
@pytest.mark.parametrize("name", sample_weights.GROUP_FORMATS)
def test_groups(name, size):
    weight = sample_weights.groups(name, np.random.default_rng(2), 768, 96, size, plain=True)
    found = mlx_weight(weight)
    assert found.settings == {
        "bits": weight.format.bits,
        "group_size": size if 0 < size < 128 else 128,
        "mode": "affine",
    }
    assert_close(found, weight, 2.0**-10 * 2**weight.format.bits)


@pytest.mark.parametrize("zeros", ["v1", "v1-field", "v2"])
@pytest.mark.parametrize("name", ["gptq2", "gptq3", "gptq4", "gptq8"])
def test_kinds_of_zero_points(name, zeros):
    weight = sample_weights.groups(name, np.random.default_rng(3), 128, 96, 32, plain=True, zeros=zeros)
    assert_close(mlx_weight(weight), weight, 2.0**-10 * 2**weight.format.bits)


def test_symmetric_compressed_tensors_are_exact():
    weight = sample_weights.groups("ct4", np.random.default_rng(4), 128, 96, 32, plain=True, zeros="none")
    assert mlx_weight(weight).error == 0


@pytest.mark.parametrize("settings", [{"g_idx": "shuffled"}, {"group_size": 16}, {"group_size": 48}])
def test_groups_that_mlx_has_not(settings):
    weight = sample_weights.groups("gptq4", np.random.default_rng(5), 192, 64, plain=True, **settings)
    assert mlx_weight(weight) is None
