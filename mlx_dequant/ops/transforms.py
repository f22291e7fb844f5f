"""What MLX's transformations do to an array, and to the arguments of their rules."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx


def only(value: Any) -> Any:
    """The single value of a rule's argument: MLX passes one value or a sequence of one."""
    return value[0] if isinstance(value, (list, tuple)) else value


_ran = threading.local()


def _run(array: mx.array) -> mx.array:
    _ran.latest = True
    return array


_compiled: Any = mx.compile(_run, shapeless=True)


def is_traced(array: mx.array) -> bool:
    """Whether a transformation follows `array`: MLX then runs anew what it has compiled.

    Also true the first time for a type and number of axes.
    """
    _ran.latest = False
    _compiled(array)
    return _ran.latest


def has_value(array: mx.array) -> bool:
    """False inside `mx.compile` and `mx.vmap`, where evaluation is refused."""
    try:
        mx.eval(array)
    except ValueError:
        return False
    return True
