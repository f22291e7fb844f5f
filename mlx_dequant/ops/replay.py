"""Products that MLX traces once and replays: nothing is decided again, and no program text is copied."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from threading import get_ident

import mlx.core as mx

from .. import backends
from ..encoded import EncodedMatrix

MAX_REPLAYS = 64  # limit of replays of a matrix: prompts come in many lengths, and threads come and go

Replay = Callable[[mx.array], mx.array]
Operation = Callable[[EncodedMatrix, mx.array, bool], mx.array]


def _key(x: mx.array, transpose: bool) -> Hashable:
    return (backends.current_backend(), x.shape, x.dtype, transpose, get_ident())


def replayed(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array | None:
    """The product, if x's shape and type were traced before; else None."""
    kept = matrix.replays.get(_key(x, transpose)) if matrix.replays else None
    if kept:
        stream = mx.default_stream(mx.default_device())
        for used, product in kept:
            if used == stream:
                return product(x)
    return None


def traced_once(matrix: EncodedMatrix, x: mx.array, transpose: bool, with_rules: Operation) -> Replay:
    """The product as a function of x, traced for x's shape and type and kept with the matrix.

    MLX keeps what it has traced by thread, by stream and by the address of the Python function. It erases only
    the entry of the thread that called last, so each thread and stream has a function of its own.

    Args:
        with_rules: the product inside a transformation of MLX.
    """
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
    operation = with_rules

    replays = matrix.replays
    assert replays is not None
    if sum(map(len, replays.values())) >= MAX_REPLAYS:
        replays.clear()
    key = _key(x, transpose)
    replays[key] = (*replays.get(key, ()), (mx.default_stream(mx.default_device()), compiled))
    return compiled
