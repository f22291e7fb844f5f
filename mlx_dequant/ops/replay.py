"""Products that MLX traces once and replays: nothing is decided again, and no program text is copied."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from threading import get_ident

import mlx.core as mx

from .. import backends
from ..encoded import EncodedMatrix

MAX_REPLAYS = 64  # limit of replays of a matrix: prompts come in many lengths, and threads come and go

Replay = Callable[..., mx.array]
Operation = Callable[..., mx.array]  # of a matrix and arrays


def key_of(x: mx.array, *how: Hashable) -> Hashable:
    """What products that are traced alike have in common: the type and shape of x, `how` they are made, the thread."""
    return (backends.current_backend(), x.shape, x.dtype, *how, get_ident())


def replayed(matrix: EncodedMatrix, key: Hashable, *arrays: mx.array) -> mx.array | None:
    """The product, if one of that key was traced before; else None."""
    kept = matrix.replays.get(key) if matrix.replays else None
    if kept:
        stream = mx.default_stream(mx.default_device())
        for used, product in kept:
            if used == stream:
                return product(*arrays)
    return None


def traced_once(
    matrix: EncodedMatrix, key: Hashable, operation: Operation, with_rules: Operation, *arrays: mx.array
) -> mx.array:
    """The product, traced as a function of the arrays and kept with the matrix.

    MLX keeps what it has traced by thread, by stream and by the address of the Python function. It erases only
    the entry of the thread that called last, so each thread and stream has a function of its own.

    Args:
        operation: the product.
        with_rules: the product inside a transformation of MLX.
    """
    # The matrix holds the function. Without a reference back, the memory of a dropped weight is freed at once.
    held = weakref.ref(matrix)

    def product(*arrays: mx.array) -> mx.array:
        alive = held()
        assert alive is not None
        return operation(alive, *arrays)

    # MLX calls a compiled function's Python code to trace it, and again for each x that another transformation traces.
    compiled: Replay = mx.compile(product)
    compiled(*(mx.zeros(array.shape, array.dtype) for array in arrays))
    operation = with_rules

    replays = matrix.replays
    assert replays is not None
    if sum(map(len, replays.values())) >= MAX_REPLAYS:
        replays.clear()
    replays[key] = (*replays.get(key, ()), (mx.default_stream(mx.default_device()), compiled))
    return compiled(*arrays)
