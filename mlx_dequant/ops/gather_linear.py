"""Linear layers of a mixture of experts: each row of x goes through the experts that its ids name.

As in linear.py, backends that need values multiply by the dequantized stack where arrays have none yet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import mlx.core as mx

from .. import backends
from ..backends.arrays import clamped_int32
from ..encoded import EncodedMatrix
from ..errors import FormatError
from .operand import Weight, check_array, check_ids, check_stack, check_x, matrix_of
from .replay import in_trace, replayed, traced_once
from .transforms import has_value, is_exporting, is_traced


def gather_linear(x: mx.array, weight: Weight, ids: mx.array, sorted: bool = False) -> mx.array:
    """x through experts of a stack, whose weights stay quantized.

    Differentiable in x. Works under `mx.grad`, `mx.jvp`, `mx.compile` and `mx.vmap`, as `linear` does.

    Args:
        x: [..., in], a row for the k experts that it goes through, or [..., k, in], a row for each of them;
            float16, bfloat16 or float32. It has one axis more than ids in the second case.
        weight: a stack [experts, out, in].
        ids: [..., k] integers, the experts of each row; negative ones count from the end.
        sorted: whether the ids, all axes flattened, never fall. Results are the same without it; on a GPU, many
            rows of x then save a sort. Ids that do fall give wrong results there.

    Returns:
        [..., k, out] in x's type, accumulated in float32 and rounded once. On a GPU, with more than 16 float16
        or bfloat16 rows of x, weights may first be rounded to x's type, as `linear` does. There, the first product
        sorts a stack with act-order by group, too, or dequantizes one that cannot be sorted for each product.

    Raises:
        FormatError: x or ids does not fit the weight, or the weight is no stack.
        IndexError: an id is out of range, on the host and the reference. On a GPU such a result is NaN,
            and so it is on the host where ids have no values yet, and inside `mx.compile`.
    """
    matrix = matrix_of(weight)
    check_array("ids", ids)
    how = (ids.shape, ids.dtype, sorted)
    y = replayed(matrix, how, x, ids)
    if y is not None:
        return y
    check_stack(weight)
    check_x(x, weight)
    check_ids(ids)
    own_rows = x.ndim == ids.ndim + 1
    backends.check_ids(ids, weight.matrix.experts)
    leading = ids.shape if own_rows else ids.shape[:-1]
    if ids.ndim == 0 or x.shape[:-1] != leading:
        raise FormatError(f"ids: found shape {ids.shape} beside x {x.shape}, expected {_expected(x)}")
    transpose = matrix.layout == "NK"
    matrix = in_trace(matrix)
    if backends.is_replayable(matrix, x, transpose):
        product = partial(backends.gather_matmul, transpose=transpose, sorted=sorted)
        with_rules = partial(_shaped, _with_rules, transpose=transpose, sorted=sorted)
        return traced_once(matrix, how, product, with_rules, 0, x, ids)
    return _shaped(gather_matmul, matrix, x, ids, transpose, sorted)


def _shaped(
    product: Callable[..., mx.array],
    matrix: EncodedMatrix,
    x: mx.array,
    ids: mx.array,
    transpose: bool,
    sorted: bool,
) -> mx.array:
    """A product of rows [M, in] and ids [M, k], for x and ids of any shape."""
    rows = prod(x.shape[:-1])
    choices = ids.reshape(rows, 1 if x.ndim == ids.ndim + 1 else ids.shape[-1])
    y = product(matrix, x.reshape(rows, x.shape[-1]), choices, transpose, sorted)
    return y.reshape(*ids.shape, y.shape[-1])


def _expected(x: mx.array) -> str:
    one_row = f"({', '.join([*map(str, x.shape[:-1]), 'k'])}{',' if x.ndim == 1 else ''})"
    return one_row if x.ndim == 1 else f"{one_row}, or {x.shape[:-1]} for a row of x each"


def gather_matmul(matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool, sorted: bool = False) -> mx.array:
    """Row m of x [M, inputs] times the experts ids[m] of ids [M, k]: [M, k, outputs]; `transpose` as in `matmul`."""
    if not (is_traced(x) or is_traced(ids)):
        return backends.gather_matmul(matrix, x, ids, transpose, sorted)
    return _with_rules(matrix, x, ids, transpose, sorted)


def _with_rules(matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool, sorted: bool = False) -> mx.array:
    """The product with its rules for MLX's transformations."""
    if not backends.on_gpu() and is_exporting():
        return _by_dense(matrix, x, ids, transpose)

    def forward(x: mx.array, ids: mx.array) -> mx.array:
        if backends.is_lazy():
            return backends.gather_matmul(matrix, mx.stop_gradient(x), ids, transpose, sorted)
        if has_value(x) and has_value(ids):
            return backends.gather_matmul(matrix, x, ids, transpose)
        return _by_dense(matrix, x, ids, transpose)

    def gradient(primals: Any, cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
        _, ids = primals
        return _backward(matrix, cotangent, ids, transpose, sorted), mx.zeros_like(ids)

    def tangent(primals: Any, tangents: Any) -> mx.array:
        return gather_matmul(matrix, tangents[0], primals[1], transpose, sorted)

    def map_over_axes(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        count = next(array.shape[axis] for array, axis in zip(inputs, axes, strict=True) if axis is not None)
        x, ids = (_mapped(array, axis, count) for array, axis in zip(inputs, axes, strict=True))
        y = gather_matmul(matrix, x.reshape(-1, x.shape[-1]), ids.reshape(-1, ids.shape[-1]), transpose)
        return y.reshape(*ids.shape, y.shape[-1]), 0

    rule: Any = mx.custom_function(forward)
    rule.vjp(gradient)
    rule.jvp(tangent)
    rule.vmap(map_over_axes)
    return rule(x, ids)


def _mapped(array: mx.array, axis: int | None, count: int) -> mx.array:
    """The axis that `mx.vmap` maps over, as the first one."""
    return mx.broadcast_to(array[None], (count, *array.shape)) if axis is None else mx.moveaxis(array, axis, 0)


def _backward(matrix: EncodedMatrix, cotangent: mx.array, ids: mx.array, transpose: bool, sorted: bool) -> mx.array:
    """[M, inputs] of a cotangent [M, k, outputs]: each choice through its expert, transposed; added up in float32."""
    M, k, outputs = cotangent.shape
    if k == 1:
        return gather_matmul(matrix, cotangent.reshape(M, outputs), ids, not transpose, sorted).reshape(M, -1)
    wide = cotangent.astype(mx.float32).reshape(M * k, outputs)
    parts = gather_matmul(matrix, wide, ids.reshape(M * k, 1), not transpose, sorted)
    return parts.reshape(M, k, -1).sum(axis=1).astype(cotangent.dtype)


def _by_dense(matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool) -> mx.array:
    """The product with the dequantized stack; NaN where an id is out of range.

    Up to a choice an expert, the experts' weights are copied: `mx.vmap` does not map MLX's own gather.
    """
    dense = backends.dequantize(matrix, mx.float32).reshape(matrix.experts, -1, matrix.columns)
    dense = dense.swapaxes(1, 2) if transpose else dense
    ids = clamped_int32(ids)
    inside = (ids >= -matrix.experts) & (ids < matrix.experts)
    numbers = mx.where(inside, ids % matrix.experts, 0).astype(mx.uint32)
    rows = x.astype(mx.float32)[:, None, None]
    y = rows @ dense[numbers] if ids.size <= matrix.experts else mx.gather_mm(rows, dense, rhs_indices=numbers)
    return mx.where(inside[..., None], y.squeeze(-2), mx.nan).astype(x.dtype)
