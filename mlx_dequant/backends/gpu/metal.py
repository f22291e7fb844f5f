"""The Metal backend."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import dequantize as weights
from . import gather as rows
from . import gather_matmul as experts
from . import matmul as products


def available() -> bool:
    """Whether MLX has a Metal GPU here."""
    return mx.metal.is_available()


dequantize = partial(weights.dequantize, "metal")
matmul = partial(products.matmul, "metal")
is_replayable = partial(products.is_replayable, "metal")
dense_bytes = partial(products.dense_bytes, "metal")
gather = partial(rows.gather, "metal")
gather_matmul = partial(experts.gather_matmul, "metal")
