"""Products with a quantized matrix on a GPU, as `dispatch.plan` says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from ... import dispatch, dtypes
from ...dispatch import DENSE_BYTES, MATMUL, MATMUL_T, Plan
from ...encoded import EncodedMatrix
from ...launches import Launch
from ..arrays import stored
from .act_order import sort_by_group
from .dequantize import region
from .launch import bind, bound, device
from .queue import queued

PATIENCE = 500  # polls of the memory in use, a third of a microsecond each
ROUNDING = 1 << 20  # bytes that MLX may allocate beyond the size of arrays

# A product of a matrix of some kind and x. It holds no matrix: memory of a dropped weight is freed at once.
Product = Callable[[EncodedMatrix, mx.array], mx.array]


def matmul(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W [rows, columns] (`transpose`), or x [..., rows] @ W.

    A matrix with act-order is sorted by group at its first product, if its groups allow it.
    """
    matrix = sort_by_group(matrix) or matrix
    product = _product_for(platform, matrix, x, transpose)
    if product.dense_bytes:
        return queued(product.dense_bytes, product.run, matrix, x)
    return product.run(matrix, x)


def is_replayable(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> bool:
    """Whether the product is a graph: one that dequantizes a matrix in parts, or a stack's experts, waits for them."""
    matrix = sort_by_group(matrix) or matrix
    if matrix.experts:
        return not matrix.has_g_idx
    return _product_for(platform, matrix, x, transpose).is_graph


def dense_bytes(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> int:
    """Bytes of a whole dequantized matrix that the product makes for a while, with which it has to be `queued`; 0."""
    if matrix.experts:
        return 0
    return _product_for(platform, sort_by_group(matrix) or matrix, x, transpose).dense_bytes


@dataclass(frozen=True)
class BoundProduct:
    """A planned product as a function of matrix and x.

    Attributes:
        is_graph: whether the function only builds a graph.
        dense_bytes: of a matrix that it dequantizes whole; 0 without.
    """

    run: Product
    is_graph: bool = True
    dense_bytes: int = 0


def _product_for(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> BoundProduct:
    key = (x.shape, x.dtype, transpose)
    return bound.of(("matmul", platform, matrix.kind, *key), lambda: bound_product(platform, matrix, *key))


def bound_product(
    platform: str, matrix: EncodedMatrix, shape: tuple[int, ...], dtype: mx.Dtype, transpose: bool
) -> BoundProduct:
    """The product with x of that shape and type, for matrices of this one's kind."""
    operation = MATMUL_T if transpose else MATMUL
    *leading, inputs = shape
    plan = dispatch.plan(device(platform), matrix, prod(leading), dtypes.name(dtype), operation)
    made = (*leading, matrix.rows if transpose else matrix.columns)
    if plan.launches:
        launched = [launch for launch in (plan.before, *plan.launches, plan.after) if launch]
        # Kernels know no leading axes, so that the last one may give its output any shape.
        shapes = [None] * (len(launched) - 1) + [made]
        steps = [_step(platform, matrix, *each, dtype) for each in zip(launched, shapes, strict=True)]
        return BoundProduct(_in_turn(steps))
    steps = [_step(platform, matrix, launch, None, dtype) for launch in (plan.before, plan.after) if launch]
    steps.insert(1 if plan.before else 0, _dense_product(platform, plan, transpose))
    if len(leading) != 1:
        steps = [lambda _, x: x.reshape(-1, inputs), *steps, lambda _, x: x.reshape(made)]
    if len(plan.regions) == 1:
        return BoundProduct(_in_turn(steps), dense_bytes=matrix.size * dtype.size)
    return BoundProduct(_in_turn(steps), is_graph=not plan.regions)


def _in_turn(steps: list[Product]) -> Product:
    if len(steps) == 1:
        return steps[0]

    def run(matrix: EncodedMatrix, x: mx.array) -> mx.array:
        for step in steps:
            x = step(matrix, x)
        return x

    return run


def _step(
    platform: str, matrix: EncodedMatrix, launch: Launch, shape: tuple[int, ...] | None, dtype: mx.Dtype
) -> Product:
    if not launch.operand:
        return bind(platform, matrix, launch, dtypes.name(dtype), shape)
    permute = bind(platform, None, launch, shape=shape)
    return lambda matrix, x: permute(None, x, getattr(matrix, launch.operand))


def _dense_product(platform: str, plan: Plan, transpose: bool) -> Product:
    if plan.route == "dense":
        return lambda matrix, x: _times(x, stored(matrix, x.dtype), transpose)
    if len(plan.regions) == 1:
        return lambda matrix, x: _times(x, region(platform, matrix, x.dtype, plan.regions[0]), transpose)
    return lambda matrix, x: dequantized_product(platform, matrix, plan, x, transpose)


def _times(x: mx.array, dense: mx.array | None, transpose: bool) -> mx.array:
    assert dense is not None
    return x @ (dense.T if transpose else dense)


def dequantized_product(platform: str, matrix: EncodedMatrix, plan: Plan, x: mx.array, transpose: bool) -> mx.array:
    """Dequantizes one bounded region of the matrix at a time, in x's type, for MLX's own product."""
    parts: list[mx.array] = []
    with suppress(ValueError):
        mx.eval(x)  # so that its memory is not counted as a region's
    limit = mx.get_active_memory() + DENSE_BYTES + ROUNDING
    for bounds in plan.regions:
        parts.append(_times(x, region(platform, matrix, x.dtype, bounds), transpose))
        limit += parts[-1].nbytes
        _wait(parts, limit)
    return mx.concatenate(parts, axis=-1)


def _wait(parts: list[mx.array], limit: int) -> None:
    """Lets one region be multiplied while the next is dequantized. Without this, MLX would allocate them all.

    A thread of MLX frees CUDA memory a little later, so this also waits while more than `limit` bytes are in use.
    Inside `mx.compile` and `mx.vmap` waiting is not possible, and MLX decides.
    """
    with suppress(ValueError):
        mx.async_eval(parts[-1])
        mx.eval(parts[-2:-1])
        for _ in range(PATIENCE):
            if mx.get_active_memory() <= limit:
                return
        mx.synchronize()
