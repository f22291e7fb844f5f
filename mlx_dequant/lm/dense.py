"""Functions of mlx-lm that change a model's layers or save them, for packed ones too."""

from __future__ import annotations

from functools import wraps
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import FormatError
from ..nn import PackedLayer
from .rebind import rebind
from .stock import untile


def unpack_model(model: nn.Module) -> nn.Module:
    """Replaces a model's packed layers by dense ones, of each weight's own type."""
    packed = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, PackedLayer)]
    while packed:  # one at a time, so that a packed layer's memory is free again
        name, layer = packed.pop()
        model.update_modules(tree_unflatten([(name, layer.unpacked())]))
    return model


def teach_mlx_lm() -> None:
    """Makes functions of mlx-lm know packed layers: `dequantize_model` unpacks them (it would pass over them and change
    nothing), `linear_to_lora_layers` says what DoRA asks for, and `save` writes what mlx-lm's own classes compute."""
    from mlx_lm import utils
    from mlx_lm.tuner import utils as tuner

    stock: Any = utils.dequantize_model
    adapt: Any = tuner.linear_to_lora_layers
    keep: Any = utils.save
    if hasattr(stock, "__wrapped__"):
        return

    @wraps(stock)
    def dequantize_model(model: nn.Module) -> nn.Module:
        return stock(unpack_model(model))

    @wraps(adapt)
    def linear_to_lora_layers(
        model: nn.Module, num_layers: int, config: dict[str, Any], use_dora: bool = False
    ) -> None:
        packed = [name for name, layer in model.named_modules() if isinstance(layer, PackedLayer)] if use_dora else []
        if packed:
            raise FormatError(
                f"use_dora: found True with {len(packed)} packed layers ({packed[0]}, ...), expected False: DoRA "
                "scales the rows of a dense weight. Use LoRA, or mlx_lm.utils.dequantize_model first"
            )
        adapt(model, num_layers, config, use_dora)

    @wraps(keep)
    def save(
        dst_path: Any,
        src_path_or_repo: Any,
        model: nn.Module,
        tokenizer: Any,
        config: dict[str, Any],
        *rest: Any,
        **more: Any,
    ) -> None:
        untile(model, config)
        keep(dst_path, src_path_or_repo, model, tokenizer, config, *rest, **more)

    rebind((stock, dequantize_model), (adapt, linear_to_lora_layers), (keep, save))
