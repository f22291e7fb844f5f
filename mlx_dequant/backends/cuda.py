"""The CUDA backend: programs under `metal/` through `mx.fast.cuda_kernel`."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import gpu


def available() -> bool:
    """Whether MLX has a CUDA device here."""
    return mx.cuda.is_available()


dequantize = partial(gpu.dequantize, "cuda")
product = partial(gpu.product, "cuda")
take = partial(gpu.take, "cuda")
