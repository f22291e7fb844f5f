"""Products by clusters beside other work on a CUDA device: MLX keeps graphs, which must not mix the two."""

from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from product_cases import LONG, check_products, weight

import mlx_dequant as mxd
from mlx_dequant import dispatch

HERE = "cuda" in mxd.available_backends() and dispatch.generation("cuda") == 90

pytestmark = [pytest.mark.full, pytest.mark.skipif(not HERE, reason="needs a CUDA device with clusters")]


def check_others(size):
    """MLX's own kernels, of shapes that are launched alike."""
    values = np.random.default_rng(size).normal(size=(size, 37)).astype(np.float32)
    array = mx.array(values)
    np.testing.assert_allclose(np.array(mx.exp(array)), np.exp(values), rtol=1e-4)
    np.testing.assert_allclose(np.array(mx.cumsum(array, axis=0)), np.cumsum(values, axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.array(array @ array.T), values @ values.T, rtol=1e-2, atol=0.1)


def test_other_work_is_unharmed():
    with mxd.use_backend("cuda"), patch.object(dispatch, "CLUSTERED", 0):
        for turn in range(12):
            check_products(weight(("q4_k", "awq4", "iq3_s")[turn % 3], LONG), mx.float16, (300, 40, 257, 2)[turn % 4])
            check_others(5 + 13 * turn)


def test_products_in_a_row():
    """Each waits for the one before, and for kernels of other streams between."""
    first, second = weight("q4_0", (512, 512)), weight("q8_0", (512, 512))
    x = mx.random.normal((300, 512)).astype(mx.float16) * 0.05
    found = []
    for clustered in (0, 2**62):
        with mxd.use_backend("cuda"), patch.object(dispatch, "CLUSTERED", clustered):
            y = x
            for _ in range(6):
                y = mx.tanh(second.linear(mx.sin(first.linear(y))))
            found.append(np.array(y))
    np.testing.assert_array_equal(*found)
