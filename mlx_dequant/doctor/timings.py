"""A first impression of speed; `python -m bench.dequantize` measures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import perf_counter

import mlx.core as mx

from .. import backends
from ..registry import formats
from . import samples

NAMES = ("q4_k", "q8_0", "iq3_s", "awq4", "gptq4", "ct4")
SIZE = 4096
ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call, the best of some rounds, in float16.

    Attributes:
        size: of the weight, both ways.
        unpack: to unpack the weight.
        linear: of a product with one vector.
    """

    format: str
    size: int
    unpack: float
    linear: float


def timings(names: Collection[str]) -> list[Timing]:
    """Of some formats out of `names` on the backend in force."""
    return [_timing(name) for name in NAMES if name in names]


def _timing(name: str) -> Timing:
    weight = samples.multiplied(formats()[name], SIZE, SIZE)
    x = mx.ones((1, SIZE), mx.float16)
    return Timing(
        name, SIZE, _microseconds(lambda: weight.dequantize(mx.float16)), _microseconds(lambda: weight.linear(x))
    )


def _microseconds(call: Callable[[], mx.array]) -> float:
    """On a GPU, of several calls in one evaluation: a single one is mostly overhead."""
    count = 10 if backends.is_lazy() else 1
    mx.eval(call())
    times: list[float] = []
    for _ in range(ROUNDS):
        start = perf_counter()
        mx.eval([call() for _ in range(count)])
        times.append(perf_counter() - start)
    return min(times) / count * 1e6
