"""Decoder layers that MLX traces once for all that are alike, and then replays.

Here a decoder layer is any module that takes x, a mask and a cache of keys and values, and calls mlx-lm's attention
once: a block of a model, or its attention alone where the block takes more. What it computes before that and after it
are two traces (`halves`).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import backends
from ..ops import replay
from . import halves, parts
from .parts import UNTRACED, now

INPUTS = ("x", "mask", "cache")  # of a decoder layer, as mlx-lm names them


def replay_decoder_layers(model: nn.Module, packed: type[nn.Module]) -> None:
    """Gives a model's decoder layers a class whose calls are replayed on a GPU, in place. All else stays.

    They are replayed in evaluation mode (`model.eval()`), with a cache. What a layer's Python code does besides
    computing a result is done when it is traced, and not again.

    Args:
        packed: the class of layers whose weights stay quantized.
    """
    for part in _children(model):
        if _is_decoder_layer(part) and parts.packed_layers(part, packed) > 1:
            part.__class__ = parts.replaying(type(part), packed, _calls)
        else:
            replay_decoder_layers(part, packed)


def _children(module: nn.Module) -> list[Any]:
    found: list[Any] = []
    for part in module.values():
        found += part if isinstance(part, list) else [part]
    return [part for part in found if isinstance(part, nn.Module)]


def _is_decoder_layer(module: Any) -> bool:
    if hasattr(module, "replayed_class") or tuple(inspect.signature(module).parameters) != INPUTS:
        return False
    return any(halves.attends(type(part)) for _, part in module.named_modules())


def _calls(stock: Any, packed: type[nn.Module]) -> Callable[..., mx.array]:
    def call(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        offset = getattr(cache, "offset", None)
        if offset is None:
            return stock.__call__(self, x, mask, cache)
        few, offset = parts.is_few(x), _as_array(offset)
        what = halves.kind_of(mask), offset.ndim
        held = parts.kept(self, few)
        made: Any = replay.known((held.kind, what), x) if held else None
        # What is known was traced in evaluation mode, on a GPU.
        if made is None and (self.training or not x.size or not backends.on_gpu()):
            return stock.__call__(self, x, mask, cache)
        held = held or parts.look(self, packed, few)
        before, now.called = now.called, (self, held.arrays)
        try:
            made = made or replay.made_once(
                (held.kind, what), x, lambda: parts.traced(stock, held, lambda: halves.traced(held, x, offset, mask))
            )
            if made is not UNTRACED:
                return made(held.arrays, x, offset, mask, cache)
        finally:
            now.called = before
        return stock.__call__(self, x, mask, cache)

    return call


class _Here(threading.local):
    """The number of tokens that this thread made an array of last: all layers of a model ask for the same."""

    offset = -1
    array: Any = None


_here = _Here()


def _as_array(offset: Any) -> mx.array:
    """How many tokens a cache has, as an array that stays as it is when the cache grows."""
    if isinstance(offset, mx.array):
        return mx.array(offset)
    if _here.offset != offset:
        _here.offset, _here.array = offset, mx.array(offset, mx.int32)
    return _here.array
