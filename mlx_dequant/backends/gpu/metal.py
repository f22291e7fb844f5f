"""The Metal backend."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import matmul as products
from . import unpacked


def available() -> bool:
    """Whether MLX has a Metal GPU here."""
    return mx.metal.is_available()


dequantize = partial(unpacked.dequantize, "metal")
matmul = partial(products.matmul, "metal")
gather = partial(unpacked.gather, "metal")
