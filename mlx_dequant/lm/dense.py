"""mlx-lm's `dequantize_model`, for packed layers too."""

from __future__ import annotations

from functools import wraps
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..nn import PackedEmbedding, PackedLinear
from .rebind import rebind


def unpack_model(model: nn.Module) -> nn.Module:
    """Replaces a model's packed layers by dense ones, of each weight's own type."""
    packed = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, PackedLinear | PackedEmbedding)
    ]
    while packed:  # one at a time, so that a packed layer's memory is free again
        name, layer = packed.pop()
        model.update_modules(tree_unflatten([(name, layer.unpacked())]))
    return model


def teach_mlx_lm() -> None:
    """Makes mlx_lm.utils.dequantize_model unpack packed layers. It would pass over them and change nothing."""
    from mlx_lm import utils

    stock: Any = utils.dequantize_model
    if hasattr(stock, "__wrapped__"):
        return

    @wraps(stock)
    def dequantize_model(model: nn.Module) -> nn.Module:
        return stock(unpack_model(model))

    rebind(stock, dequantize_model)
