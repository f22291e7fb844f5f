"""The CUDA backend."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import dequantize as weights
from . import gather as rows
from . import gather_matmul as experts
from . import matmul as products


def available() -> bool:
    """Whether MLX has a CUDA device here."""
    return mx.cuda.is_available()


dequantize = partial(weights.dequantize, "cuda")
matmul = partial(products.matmul, "cuda")
is_replayable = partial(products.is_replayable, "cuda")
dense_bytes = partial(products.dense_bytes, "cuda")
gather = partial(rows.gather, "cuda")
gather_matmul = partial(experts.gather_matmul, "cuda")
