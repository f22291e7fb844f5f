"""Linear layers whose weight stays quantized.

Inside `mx.compile` and `mx.vmap` an array has no value yet. Backends that build graphs need none. The reference, and
the host where it computes at once, do: there the graph multiplies by the dequantized weight and keeps it. So does what
`mx.export_function` writes on a CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from .. import backends, dtypes
from ..encoded import EncodedMatrix
from ..errors import FormatError
from .operand import SHARED, Weight, check_array, check_matrix, check_x, matrix_of
from .replay import in_trace, replayed, traced_once
from .transforms import has_value, is_exporting, is_traced, only


def linear(x: mx.array, weight: Weight, bias: mx.array | None = None) -> mx.array:
    """x through a linear layer whose weight stays quantized.

    Differentiable in x and bias. Works under `mx.grad`, `mx.jvp`, `mx.compile` and `mx.vmap`, except that
    on a GPU MLX cannot map custom kernels, so `mx.vmap` raises a ValueError. Give x leading axes instead.

    Args:
        x: [..., in] float16, bfloat16 or float32.
        weight: a matrix; stacks of matrices are refused.
        bias: [out], added in x's type.

    Returns:
        [..., out] in x's type, accumulated in float32 and rounded once. On a GPU, with more than 16
        float16 or bfloat16 rows of x, weights are first rounded to x's type, as in a dense layer;
        from 129 float32 rows on, MLX may use TF32. There, the first product sorts a weight with
        act-order (g_idx) by group and keeps the sorted copy with the weight. One that cannot be sorted, with groups of
        several sizes or one that 32 does not divide, is dequantized for each product, in x's type.

    Raises:
        FormatError: x or bias does not fit the weight.
    """
    matrix = matrix_of(weight)
    share: Any = matrix.cache.get(SHARED)
    y = None if share is None else share.product.outputs(share.member, x)
    if y is None:
        y = replayed(matrix, (matrix.layout == "NK",), x)
    if y is None:
        check_matrix(weight)
        check_x(x, weight)
        y = matmul(matrix, x, matrix.layout == "NK")
    if bias is None:
        return y
    check_array("bias", bias)
    if bias.shape != (weight.out_features,):
        raise FormatError(f"bias: found shape {bias.shape}, expected ({weight.out_features},)")
    if not dtypes.is_float(bias.dtype):
        raise FormatError(f"bias: found {bias.dtype}, expected float16, bfloat16 or float32")
    return y + bias.astype(x.dtype)


def linear_parts(x: mx.array, weight: Weight, ends: tuple[int, ...]) -> list[mx.array]:
    """The outputs of `linear`, cut in parts that end at `ends`; on a GPU in the same trace as the product."""
    matrix = weight.matrix
    transpose = matrix.layout == "NK"
    how = (transpose, ends)
    parts: Any = replayed(matrix, how, x)
    if parts is not None:
        return parts
    check_matrix(weight)
    check_x(x, weight)
    matrix = in_trace(matrix)

    def cut(product: Any, matrix: EncodedMatrix, x: mx.array) -> Any:
        return mx.split(product(matrix, x, transpose), ends, axis=-1)

    if not backends.is_replayable(matrix, x, transpose) or backends.dense_bytes(matrix, x, transpose):
        return cut(matmul, matrix, x)
    parts = traced_once(matrix, how, partial(cut, backends.matmul), partial(cut, _with_rules), 0, x)
    return parts


def matmul(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W (`transpose`), or x [..., rows] @ W.

    The gradient of one is the other, so no rule needs the dequantized matrix.
    """
    y = replayed(matrix, (transpose,), x)
    if y is not None:
        return y
    matrix = in_trace(matrix)
    if backends.is_replayable(matrix, x, transpose):
        product, with_rules = (partial(each, transpose=transpose) for each in (backends.matmul, _with_rules))
        dense_bytes = backends.dense_bytes(matrix, x, transpose)
        return traced_once(matrix, (transpose,), product, with_rules, dense_bytes, x)
    if not is_traced(x):
        # Making a custom function costs time, and the wake-up of a thread where values are needed at once.
        return backends.matmul(matrix, x, transpose)
    return _with_rules(matrix, x, transpose)


def _with_rules(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """The product with its rules for MLX's transformations."""
    if not backends.on_gpu() and is_exporting():
        return _by_dense(matrix, x, transpose)

    def forward(x: mx.array) -> mx.array:
        if backends.is_lazy():
            # Without it, `mx.jvp` would ask the kernel for its own rule.
            return backends.matmul(matrix, mx.stop_gradient(x), transpose)
        if has_value(x):
            return backends.matmul(matrix, x, transpose)
        return _by_dense(matrix, x, transpose)

    def map_over_axis(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        return matmul(matrix, mx.moveaxis(only(inputs), only(axes), 0), transpose), 0

    rule: Any = mx.custom_function(forward)
    rule.vjp(lambda primals, cotangent, output: matmul(matrix, cotangent, not transpose))
    rule.jvp(lambda primals, tangents: matmul(matrix, only(tangents), transpose))
    rule.vmap(map_over_axis)
    return rule(x)


def _by_dense(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """The product with the dequantized weight."""
    dense = backends.dequantize(matrix, mx.float32)
    return (x.astype(mx.float32) @ (dense.T if transpose else dense)).astype(x.dtype)
