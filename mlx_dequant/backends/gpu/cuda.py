"""The CUDA backend."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import matmul as products
from . import unpacked


def available() -> bool:
    """Whether MLX has a CUDA device here."""
    return mx.cuda.is_available()


dequantize = partial(unpacked.dequantize, "cuda")
matmul = partial(products.matmul, "cuda")
gather = partial(unpacked.gather, "cuda")
