"""How MLX's transformations show: in an array, and in the arguments of their rules."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import backends
from .threads import PerThread


def only(value: Any) -> Any:
    """The value of a rule's argument, which MLX passes by itself or in a sequence of length one."""
    return value[0] if isinstance(value, (list, tuple)) else value


class _Ran(PerThread):
    latest = False


_ran = _Ran()


def _run(array: mx.array) -> mx.array:
    _ran.latest = True
    return array


_compiled: Any = mx.compile(_run, shapeless=True)


def is_traced(array: mx.array) -> bool:
    """Whether a transformation traces `array`: then MLX calls a compiled function's Python code again.

    Where the backend cannot say, it is also true the first time for a type and a number of axes.
    """
    known = backends.is_tracer(array)
    if known is not None:
        return known
    _ran.latest = False
    _compiled(array)
    return _ran.latest


_probe: Any = mx.fast.metal_kernel(name="probe", input_names=["x"], output_names=["y"], source="y[0] = x[0];")


def is_exporting() -> bool:
    """Whether `mx.export_function` traces: it writes MLX's own operations and kernels, and nothing else.

    MLX does not say so. But it takes a Metal kernel without Metal only to write it; with Metal, this is False.
    """
    if mx.metal.is_available():
        return False
    try:
        _probe(
            inputs=[mx.zeros(8)],
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
            output_shapes=[(8,)],
            output_dtypes=[mx.float32],
        )
    except RuntimeError:
        return False
    return True


def has_value(array: mx.array) -> bool:
    """Whether `array` can be evaluated: not inside `mx.compile` and `mx.vmap`."""
    try:
        mx.eval(array)
    except ValueError:
        return False
    return True
