"""The Metal backend: programs under `metal/` through `mx.fast.metal_kernel`."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import gpu


def available() -> bool:
    """Whether MLX has a Metal device here."""
    return mx.metal.is_available()


dequantize = partial(gpu.dequantize, "metal")
product = partial(gpu.product, "metal")
take = partial(gpu.take, "metal")
