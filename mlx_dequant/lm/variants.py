"""Layers of mlx-lm's models that compute what their config says and mlx-lm's own do not: windows, activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import FormatError
from ..renamed import with_globals
from .settings import fail
from .settings_table import ROWS, TANH, Row

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    **dict.fromkeys(TANH, nn.gelu_approx),
    "silu": nn.silu,
    "swish": nn.silu,
    "relu": nn.relu,
}
# The setting of gated delta nets whose output layer's inputs are tiled: `gguf_delta` says what that is.
TILED = "linear_value_heads_tiled"
# The layers of a feed-forward block: the last one gets the activations of the first, times those of a second.
LAYERS = {
    "gemma": ("gate_proj", "up_proj", "down_proj"),
    "starcoder2": ("c_fc", "c_proj"),
    "gpt_bigcode": ("c_fc", "c_proj"),
    "gpt_neox": ("dense_h_to_4h", "dense_4h_to_h"),
}

# Where all layers see windows unless `layer_types` tells them apart, which transformers' Ministral 3 does not read.
WINDOWED = ("mistral", "ministral3")


def windows(settings: Mapping[str, Any]) -> list[int | None]:
    """How many positions each layer sees, as transformers has it; None is all."""
    count, window = settings.get("num_hidden_layers") or 0, settings.get("sliding_window") or None
    second = "full_attention" if settings["model_type"] == "gemma2" else "sliding_attention"
    kinds = settings.get("layer_types") or ["sliding_attention", second] * count
    return [window if kind == "sliding_attention" else None for kind in kinds[:count]]


def check(settings: dict[str, Any], known: set[str]) -> None:
    """Refuses windows that neither mlx-lm's model nor `change` knows; says them as mlx-lm's model reads them."""
    kind = settings["model_type"]
    if kind == "ministral3" or (kind == "mistral" and "full_attention" not in (settings.get("layer_types") or ())):
        settings["layer_types"] = None
    seen = [window is not None for window in windows(settings)]
    if "sliding_window_pattern" in known and settings.get("layer_types"):
        settings["sliding_window_pattern"] = _pattern(settings, seen)
    elif any(seen) and not ROWS.get(kind, Row()).windows and "sliding_window" not in known:
        limit = settings.get("max_position_embeddings") or float("inf")
        if settings["sliding_window"] < limit:
            raise fail("sliding_window", settings["sliding_window"], f"none: mlx-lm's {kind} ignores it")


def _pattern(settings: Mapping[str, Any], seen: list[bool]) -> int | str | None:
    """After how many layers one sees everything (EXAONE: a letter a layer)."""
    if settings["model_type"] == "exaone4":
        return "".join("L" if window else "G" for window in seen) if any(seen) else None
    every = seen.index(False) + 1 if False in seen else 0
    if not every or seen != [(at + 1) % every != 0 for at in range(len(seen))]:
        raise fail("layer_types", settings["layer_types"], "every n-th layer of full attention, at least one")
    return every


def has_windows_everywhere(settings: Mapping[str, Any]) -> bool:
    """Whether all layers see windows, where mlx-lm's own model lets some see everything."""
    windowed = settings["model_type"] in WINDOWED and not settings.get("layer_types")
    return windowed and bool(settings.get("sliding_window"))


def change(model: Any, settings: Mapping[str, Any]) -> None:
    """Gives layers the windows and the activation of the settings, in place, where a row of the table says so."""
    kind = settings["model_type"]
    row = ROWS.get(kind, Row())
    if has_windows_everywhere(settings):
        # mlx-lm's model sees windows, if not in all layers.
        model.model.fa_idx = model.model.swa_idx = 0
        for layer in model.layers:
            layer.use_sliding = True
    if row.windows:
        limit = settings.get("max_position_embeddings") or float("inf")
        for layer, window in zip(model.layers, windows(settings), strict=True):
            if window is not None and window < limit:
                _become(layer.self_attn, "window", window)
    if kind == "gemma3_text":
        _become(model.model, "scaled", None)
    if kind == "gemma3n_text" and settings["num_kv_shared_layers"]:
        _become(model, "cached", None)
    for layer in model.layers if settings.get(TILED) else ():
        if hasattr(layer, "linear_attn"):
            _become(layer.linear_attn.norm, "tiled", (layer.linear_attn.num_k_heads, layer.linear_attn.num_v_heads))
    if row.activation is not None:
        name = settings.get("hidden_activation") or settings.get(row.activation) or TANH[0]
        if name not in ACTIVATIONS:
            raise fail(row.activation, name, f"one of {', '.join(ACTIVATIONS)}")
        for layer in model.layers:
            _become(layer.mlp, "activation", (name, LAYERS[kind]))


def _become(module: nn.Module, what: str, how: Any) -> None:
    module.__class__ = _variant(type(module), what, how)


@cache
def _variant(base: type[nn.Module], what: str, how: Any) -> type[nn.Module]:
    calls = {"window": _in_window, "activation": _activated, "tiled": _tiled, "cached": _cached, "scaled": _scaled}
    call = calls[what](base, how)
    names = {"__call__": call, "__reduce__": _reduce, "_made_of": (base, what, how)}
    return type(base.__name__, (base,), names)


def _reduce(self: Any) -> tuple[Any, ...]:
    """For copy and pickle, which cannot import a class made here."""
    return _new, self._made_of, dict(self.__dict__), None, iter(self.items())


def _new(base: type[nn.Module], what: str, how: Any) -> nn.Module:
    made = _variant(base, what, how)
    return made.__new__(made)


def _in_window(base: Any, window: int) -> Callable[..., Any]:
    from mlx_lm.models.base import create_causal_mask

    def call(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> Any:
        """The attention of `base`, whose mask hides what lies further back than the window."""
        count, offset = x.shape[1], getattr(cache, "offset", 0)
        if cache is None or (isinstance(offset, int) and not hasattr(cache, "max_size")):
            if offset + count > window:
                mask = create_causal_mask(count, offset, window_size=window)
        else:  # texts of different lengths, or a cache that forgets
            mask = cache.make_mask(count, return_array=True, window_size=window)
        return base.__call__(self, x, mask, cache)

    return call


def _activated(base: Any, how: tuple[str, tuple[str, ...]]) -> Callable[..., Any]:
    name, (first, *second, last) = how
    activation = ACTIVATIONS[name]

    def call(self: Any, x: mx.array) -> Any:
        hidden = activation(self[first](x))
        for factor in second:
            hidden = hidden * self[factor](x)
        return self[last](hidden)

    return call


def _tiled(base: Any, how: tuple[int, int]) -> Callable[..., Any]:
    keys, values = how

    def call(self: Any, x: mx.array, gate: mx.array | None = None) -> Any:
        """The norm of `base`, x [batch, positions, heads, n], with the first head of each group first."""
        if x.shape[-2] != values:
            raise FormatError(f"{TILED}: found {x.shape[-2]} of {values} heads, expected all: ranks cannot share them")
        x = base.__call__(self, x, gate)
        return x.reshape(*x.shape[:2], keys, -1, x.shape[-1]).swapaxes(2, 3).reshape(x.shape)

    return call


def _cached(base: Any, how: None) -> Callable[..., Any]:
    def call(self: Any, inputs: Any = None, cache: Any = None, **others: Any) -> Any:
        """The model of `base`, whose last layers take keys of others from a cache, and make their own without one."""
        return base.__call__(self, inputs, cache=self.make_cache() if cache is None else cache, **others)

    return call


class _Wider:
    """MLX, whose bfloat16 is float32."""

    bfloat16 = mx.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)


def _scaled(base: Any, how: None) -> Callable[..., Any]:
    """The model of `base`, which scales embeddings by a root in their own type. mlx-lm rounds it to bfloat16."""
    return with_globals(base.__call__, {"mx": _Wider()})
