"""Products that MLX traces once and replays: nothing is decided again, and no program text is copied."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident

import mlx.core as mx

from .. import backends
from ..encoded import EncodedMatrix

MAX_REPLAYS = 64  # limit of replays of a matrix: prompts come in many lengths

Replay = Callable[[mx.array], mx.array]
Operation = Callable[[EncodedMatrix, mx.array, bool], mx.array]


def replay(matrix: EncodedMatrix, x: mx.array, transpose: bool, traced: Operation) -> Replay | None:
    """The product as a function of x, made once for x's shape and type; None where it is more than a graph.

    MLX keeps what it has traced by thread and by the address of the Python function. It erases only the entry
    of the thread that called last, so each thread has a function of its own.

    Args:
        traced: the product with rules, for calls inside a transformation of MLX.
    """
    replays = matrix.cache.setdefault("replays", {})
    key = (backends.current_backend(), x.shape, x.dtype, transpose, get_ident())
    found = replays.get(key)
    if found is None and backends.is_replayable(matrix, x, transpose):
        if len(replays) >= MAX_REPLAYS:
            replays.clear()
        found = replays[key] = _traced_once(matrix, x, transpose, traced)
    return found


def _traced_once(matrix: EncodedMatrix, x: mx.array, transpose: bool, traced: Operation) -> Replay:
    # The matrix holds the function. Without a reference back, the memory of a dropped weight is freed at once.
    held = weakref.ref(matrix)
    operation: Operation = backends.matmul

    def product(x: mx.array) -> mx.array:
        alive = held()
        assert alive is not None
        return operation(alive, x, transpose)

    # MLX calls a compiled function's Python code to trace it, and again for each x that another transformation traces.
    compiled: Replay = mx.compile(product)
    compiled(mx.zeros(x.shape, x.dtype))
    operation = traced
    return compiled
