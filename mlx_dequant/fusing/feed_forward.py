"""Feed-forward modules that MLX traces once for all layers that are alike, and then replays.

Such a module is a function of x alone, so that its products, its activation and its choice of experts can be one
trace. For a few rows of x a GPU waits for the CPU that builds them (bench/NOTES.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import backends
from ..ops import replay
from . import parts
from .parts import UNTRACED, now

# Names that mlx-lm's models give to feed-forward modules.
NAMES = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp")


def replay_feed_forward(model: nn.Module, packed: type[nn.Module]) -> None:
    """Gives a model's feed-forward modules a class whose calls are replayed on a GPU, in place. All else stays.

    They are replayed in evaluation mode (`model.eval()`): training may draw random numbers. What a module's Python
    code does besides computing a result is done when it is traced, and not again.

    Args:
        packed: the class of layers whose weights stay quantized.
    """
    for _, module in model.named_modules():
        for name in NAMES:
            part = module.get(name)
            if isinstance(part, nn.Module) and _takes_x_alone(part) and parts.packed_layers(part, packed) > 1:
                part.__class__ = parts.replaying(type(part), packed, _calls)


def _takes_x_alone(module: Any) -> bool:
    return not hasattr(module, "replayed_class") and len(inspect.signature(module).parameters) == 1


def _calls(stock: Any, packed: type[nn.Module]) -> Callable[..., mx.array]:
    def on_copy(*given: mx.array) -> mx.array:
        with parts.copied(given[:-1]) as module:
            return stock.__call__(module, given[-1])

    def call(self: Any, x: mx.array) -> mx.array:
        held = parts.kept(self)
        made: Any = replay.known(held.kind, x) if held else None
        # What is known was traced in evaluation mode, for few rows, on a GPU.
        if made is None and (self.training or not parts.is_few(x) or not backends.on_gpu()):
            return stock.__call__(self, x)
        held = held or parts.look(self, packed)
        before, now.called = now.called, (self, held.arrays)
        try:
            made = made or replay.made_once(held.kind, x, lambda: parts.traced(stock, held, lambda: compiled(held, x)))
            if made is not UNTRACED:
                return made(*held.arrays, x)
        finally:
            now.called = before
        return stock.__call__(self, x)

    def compiled(held: parts.Parts, x: mx.array) -> replay.Traced:
        return replay.compiled(on_copy, *held.arrays, x)[0]

    return call
