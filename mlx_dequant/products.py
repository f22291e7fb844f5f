"""Products and look-ups with weights that stay packed, and their rules under MLX's transformations.

Inside `mx.compile` and `mx.vmap` an array has no value yet. The GPU backends build graphs and do
not mind; the host and the reference need values, so there they use plain operations on the unpacked
weight, which the graph then holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from . import backends, dtypes
from .dtypes import FLOATS
from .errors import FormatError

if TYPE_CHECKING:
    from .weights.base import QuantizedWeight

INTEGERS = (mx.int32, mx.uint32, mx.int64, mx.uint64, mx.int16, mx.uint16, mx.int8, mx.uint8)


def linear(x: mx.array, weight: QuantizedWeight, bias: mx.array | None = None) -> mx.array:
    """x through a linear layer whose weight stays packed.

    Differentiable in x and bias, under `mx.grad`, `mx.vmap`, `mx.jvp` and `mx.compile`. Not under
    `mx.vmap` on a GPU: MLX, which cannot map its custom kernels, raises a ValueError. Leading axes
    do the same.

    Args:
        x: [..., in] float16, bfloat16 or float32.
        weight: a matrix; stacks of matrices are refused.
        bias: [out], added in x's type.

    Returns:
        [..., out] in x's type, accumulated in float32 and rounded once. On a GPU, with more than 16
        float16 or bfloat16 vectors, weights are first rounded to x's type, as dense layers have
        them; from 129 float32 vectors on, MLX may use TF32. A weight with act-order
        (g_idx) is sorted by group there at its first product, in arrays that are kept with it.

    Raises:
        FormatError: x or bias does not fit the weight.
    """
    _check_matrix(weight)
    if x.dtype not in FLOATS:
        raise FormatError(f"x: found {x.dtype}, expected float16, bfloat16 or float32")
    if x.ndim == 0 or x.shape[-1] != weight.in_features:
        raise FormatError(f"x: found shape {x.shape}, expected a last axis of {weight.in_features} inputs")
    y = product(weight, x, transpose=not weight.by_inputs)
    if bias is None:
        return y
    if bias.shape != (weight.out_features,):
        raise FormatError(f"bias: found shape {bias.shape}, expected ({weight.out_features},)")
    if bias.dtype not in FLOATS:
        raise FormatError(f"bias: found {bias.dtype}, expected float16, bfloat16 or float32")
    return y + bias.astype(x.dtype)


def take(weight: QuantizedWeight, ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
    """Rows of the [out, in] matrix, as an embedding looks them up; exact to the bit.

    Not under `mx.vmap` on a GPU, as `linear`.

    Args:
        weight: a matrix.
        ids: integers of any shape; negative ones count from the end.
        dtype: float32, float16 or bfloat16; the weight's own by default.

    Returns:
        [*ids.shape, in].

    Raises:
        IndexError: an id is out of range, where the backend sees values (host, reference); on a
            GPU such a row is NaN.
    """
    _check_matrix(weight)
    dtype = dtypes.checked(dtype or weight.dtype)
    if ids.dtype not in INTEGERS:
        raise FormatError(f"ids: found {ids.dtype}, expected integers")

    def look_up(ids: mx.array) -> mx.array:
        if backends.is_lazy() or has_value(ids):
            rows = backends.take(weight, ids.reshape(-1), dtype, int(weight.by_inputs))
        else:
            dense = weight.dequantize(dtype)
            rows = (dense.T if weight.by_inputs else dense)[ids.reshape(-1)]
        return rows.reshape(*ids.shape, weight.in_features)

    rule: Any = mx.custom_function(look_up)
    rule.vmap(lambda inputs, axes: (take(weight, mx.moveaxis(_only(inputs), _only(axes), 0), dtype), 0))
    return rule(ids)


def product(weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] times the stored matrix transposed (`transpose`), or x [..., rows] times it.

    The gradient of one is the other, so no rule needs the unpacked weight.
    """
    if not is_traced(x):
        # A rule takes Python to make and, where values are needed at once, a thread's wake-up.
        return backends.product(weight, x, transpose)

    def forward(x: mx.array) -> mx.array:
        if backends.is_lazy():
            # Or `mx.jvp` would ask for the kernel's own.
            return backends.product(weight, mx.stop_gradient(x), transpose)
        if has_value(x):
            return backends.product(weight, x, transpose)
        dense = weight.dequantize(mx.float32)
        return (x.astype(mx.float32) @ (dense.T if transpose else dense)).astype(x.dtype)

    def turn(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        return product(weight, mx.moveaxis(_only(inputs), _only(axes), 0), transpose), 0

    rule: Any = mx.custom_function(forward)
    rule.vjp(lambda primals, cotangent, output: product(weight, cotangent, not transpose))
    rule.jvp(lambda primals, tangents: product(weight, _only(tangents), transpose))
    rule.vmap(turn)
    return rule(x)


def _only(value: Any) -> Any:
    """MLX hands a rule one value, or a sequence of one, by its mood."""
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


def _check_matrix(weight: QuantizedWeight) -> None:
    if len(weight.shape) != 2:
        raise FormatError(f"weight: found shape {weight.shape}, expected a matrix")
