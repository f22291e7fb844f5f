"""Times of a mixture's products: one layer of all experts, by tokens, as mlx-lm calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from ...backends import on_gpu
from ...diagnostics.graph import cost
from ...diagnostics.timing import Call, interleaved
from ..models import Kind, experts
from ..runners import MLXModel, Runner

SORTED = 64  # pairs of a token and an expert from which on mlx-lm sorts them
CHAIN = 10  # products that begin together on a GPU
PARTS = ("up", "down")
Row = dict[str, Any]


def measure(
    runners: Mapping[Kind, Runner], prompts: Sequence[int], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[Kind, Row]:
    """Of models that are mixtures, the fields "up", "down" and "launches": microseconds and launches by tokens.

    "up" are the products that make an expert's inner numbers, "down" those after them. All models take turns. Launches
    are known of what is a graph.
    """
    layers = {kind: experts(runner.model) for kind, runner in runners.items() if isinstance(runner, MLXModel)}
    layers = {kind: each for kind, each in layers.items() if each}
    found: dict[Kind, Row] = {kind: {part: {} for part in (*PARTS, "launches")} for kind in layers}
    if not layers:
        return {}
    say(f"experts' products: {len(layers)} models in turn")
    for tokens in (1, *prompts):
        for part in PARTS:
            products = {
                kind.title: product(each[part], _chosen(runners[kind]), part, tokens, _dtype(runners[kind]))
                for kind, each in layers.items()
            }
            calls = {title: _call(made) for title, made in products.items()}
            taken = interleaved(calls, rounds, seconds)
            for kind in layers:
                found[kind][part][str(tokens)] = round(1e6 * taken[kind.title].median, 1)
                if kind.provider == "mlx" or on_gpu():
                    launches = found[kind]["launches"].get(str(tokens), 0)
                    found[kind]["launches"][str(tokens)] = max(launches, cost(products[kind.title]).launches)
        for kind in layers:
            times = ", ".join(f"{part} {found[kind][part][str(tokens)]:,.0f} us" for part in PARTS)
            say(f"  {kind.title}, {tokens} tokens: {times}")
    return found


def product(layer: Any, chosen: int, part: str, tokens: int, dtype: mx.Dtype) -> Callable[[], mx.array]:
    """A product with `chosen` experts for each token, as mlx-lm's `SwitchGLU` calls the layer `part` of its experts."""
    count, inputs = layer.num_experts, layer.input_dims
    key = mx.random.key(tokens)
    ids = mx.argsort(mx.random.uniform(shape=(tokens, count), key=key), axis=-1)[:, :chosen]
    in_order = ids.size >= SORTED
    if in_order:
        ids = mx.sort(ids.flatten())
        x = mx.random.normal((ids.size, 1, inputs), dtype, key=key)
    else:
        x = mx.random.normal((tokens, 1 if part == "up" else chosen, 1, inputs), dtype, key=key)
    ids = mx.contiguous(ids)
    mx.eval(x, ids)
    return partial(layer, x, ids, sorted_indices=in_order)


def _call(product: Callable[[], mx.array]) -> Call:
    return Call(lambda turn: product(), mx.eval, CHAIN if on_gpu() else 1)


def _chosen(runner: Any) -> int:
    return runner.model.args.num_experts_per_tok


def _dtype(runner: Any) -> mx.Dtype:
    return runner.dtype
