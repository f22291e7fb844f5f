"""Models as mlx-lm loads them without this package: what its own classes would compute otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import FormatError
from ..nn import PackedLayer
from .folder import stock_model
from .gguf_delta import untiled
from .settings_table import GELUS, ROWS, Row
from .variants import TILED, has_windows_everywhere

OFFSETS = (0, 5, 100, 5000)  # positions at which rotations are compared
CLOSE = 1e-4


def check_own_classes(model: Any, config: Mapping[str, Any]) -> None:
    """Refuses a model that mlx-lm's own classes do not compute: windows, activations and rotary scaling that are ours.

    Raises:
        FormatError: it names the layer.
    """
    text = config.get("text_config") or config
    kind, window = text["model_type"], text.get("sliding_window")
    if has_windows_everywhere(text) and window < text["max_position_embeddings"]:
        raise _fail("model.layers", f"attention that sees {window} positions", f"mlx-lm's {kind} sees all")
    for name, module in model.named_modules():
        made: Any = getattr(type(module), "_made_of", (None, "", None))
        _, what, how = made
        if what == "window":
            raise _fail(name, f"attention that sees {how} positions", f"mlx-lm's {kind} sees all")
        if what == "activation" and how[0] not in GELUS:
            raise _fail(name, f"activation {how[0]!r}", f"mlx-lm's {kind} has another")
    if not ROWS.get(kind, Row()).rope:
        return
    theirs = _rotations(stock_model(config))
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    for name, rope in _rotations(model).items():
        if name not in theirs or not _rotate_alike(rope, theirs[name], size):
            raise _fail(name, "rotary scaling", f"mlx-lm's {kind} scales otherwise")


def _fail(name: str, found: str, why: str) -> FormatError:
    return FormatError(f"{name}: found {found}, but {why}: to='packed' keeps it")


def _rotations(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if name.endswith("self_attn.rope")}


def _rotate_alike(ours: Any, theirs: Any, size: int) -> bool:
    """Whether both turn heads of that size alike."""
    x = mx.random.normal((1, 1, 2, size), key=mx.random.key(0))
    return all(bool(mx.allclose(ours(x, offset=at), theirs(x, offset=at), rtol=0, atol=CLOSE)) for at in OFFSETS)


def untile(model: nn.Module, config: dict[str, Any]) -> None:
    """Gives layers of gated delta nets that became dense, or MLX's own, their inputs in transformers' order, in place.

    The order is llama.cpp's while they are packed, and a class of ours reorders what they get.
    """
    text = config.get("text_config") or config
    nets: list[Any] = [module for module in model.modules() if hasattr(module, "linear_attn")]
    if not text.get(TILED) or any(isinstance(each.linear_attn.out_proj, PackedLayer) for each in nets):
        return
    for each in nets:
        net: Any = each.linear_attn
        for part in ("weight", "scales", "biases"):
            if part in net.out_proj:
                net.out_proj[part] = untiled(net.out_proj[part], text)
        net.norm.__class__ = type(net.norm)._made_of[0]
    del text[TILED]
