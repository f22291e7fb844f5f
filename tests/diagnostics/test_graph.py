"""Launches and program text of products with one row of x, counted without a GPU: MLX traces kernels anywhere."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import mlx.core as mx
import pytest
from devices import generation

from mlx_dequant import backends
from mlx_dequant.backends.gpu import launch
from mlx_dequant.bench import random_layers
from mlx_dequant.diagnostics.graph import cost
from mlx_dequant.registry import formats

# Kilobytes of text of products with Llama 3's k_proj and q_proj and one row of x or 16: on Metal, on CUDA.
LIMITS = {
    "q4_0": (6, 7),
    "q4_k": (6, 7),
    "q6_k": (6, 7),
    "q8_0": (6, 7),
    "iq2_s": (6, 7.5),
    "iq3_s": (6, 7.5),
    "awq4": (6, 7),
    "gptq4": (7, 7.5),
    "gptq4-act": (7.5, 7.5),
    "ct4": (7, 7.5),
}
# Every format whose float16 products are no dense ones, and those that may have act-order.
PACKED = [name for name, form in formats().items() if form.stored != "float16"]
ACT_ORDER = [f"{name}-act" for name in PACKED if formats()[name].family in ("gptq", "compressed_tensors")]
SHAPES = ((1024, 4096), (4096, 4096))


@cache
def weight(name: str, rows: int, columns: int):
    kind = name.removesuffix("-act")
    return random_layers.quantized(kind, rows, columns, 128, g_idx=kind != name)


def traced(platform: str, name: str, shape: tuple[int, int], M: int = 1):
    """The cost of a product on a GPU that is not here."""
    layer, x = weight(name, *shape), mx.zeros((1, M, shape[1]), mx.float16)
    mx.eval(x)
    with (
        patch.object(backends, "current_backend", lambda: platform),
        patch.object(mx.fast, "cuda_kernel", lambda shared_memory, **kernel: mx.fast.metal_kernel(**kernel)),
        generation(90),
    ):
        return cost(lambda: layer.linear(x))


@pytest.mark.parametrize("name", LIMITS)
def test_few_rows_are_one_launch_of_a_short_text(name):
    for platform, limit in zip(("metal", "cuda"), LIMITS[name], strict=True):
        for M in (1, 16):
            for shape in SHAPES:
                found = traced(platform, name, shape, M)
                assert found.launches == 1, (platform, shape, M, found)
                assert 1000 < found.text_bytes <= 1000 * limit, (platform, shape, M, found)


@pytest.mark.parametrize("platform", ["metal", "cuda"])
@pytest.mark.parametrize("name", [*PACKED, *ACT_ORDER])
def test_no_kernel_has_a_long_text(name, platform):
    """A linear layer's, of float16: at most 8 kilobytes for up to 16 rows of x, and 12 for more."""
    assert max(size for M in (1, 16) for size in traced(platform, name, SHAPES[1], M).texts) <= 8000
    found = traced(platform, name, SHAPES[1], 64)
    assert found.launches >= len(found.texts) >= 2
    assert 1000 < max(found.texts) <= 12000, found


def test_casts_sums_and_fills_count_and_views_do_not():
    x, w = mx.ones((1, 8)), mx.ones((4, 8))
    mx.eval(x, w)
    assert cost(lambda: x @ w.T).kernels == ("Matmul",)
    found = cost(lambda: (x @ w.T).reshape(4)[None, :2].astype(mx.float16) + mx.zeros(2, mx.float16))
    assert found.kernels == ("Matmul", "AsType", "Full", "Add")
    assert found.text_bytes == 0


def test_what_is_built_once_is_left_out():
    kept: list[mx.array] = []
    x = mx.ones(8)
    mx.eval(x)

    def call() -> mx.array:
        if not kept:
            kept.append(mx.exp(mx.ones(8)))
            mx.eval(kept)
        return x * kept[0]

    assert cost(call).kernels == ("Multiply",)


def test_every_kernel_of_a_product_has_its_text():
    found = traced("metal", "awq4", SHAPES[0])
    assert set(found.kernels) == {"CustomKernel"}
    texts = [len(text) for text in _texts("awq4", SHAPES[0])]
    assert found.launches == len(texts)
    assert sum(texts) < found.text_bytes < sum(texts) + 2000 * len(texts)  # MLX adds a signature


def _texts(name: str, shape: tuple[int, int]) -> list[str]:
    """What the package hands to MLX."""
    made: list[str] = []
    real = mx.fast.metal_kernel

    def make(**kernel):
        made.append(kernel["header"] + kernel["source"])
        return real(**kernel)

    launch.kernel.cache_clear()
    with patch.object(mx.fast, "metal_kernel", make):
        traced("metal", name, shape)
    launch.kernel.cache_clear()
    return made
