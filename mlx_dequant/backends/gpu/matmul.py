"""Products with a quantized matrix on a GPU, as `dispatch.plan` says."""

from __future__ import annotations

import threading
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
from .launch import bind, device

PATIENCE = 500  # polls of the memory in use, a third of a microsecond each
ROUNDING = 1 << 20  # bytes that MLX may allocate beyond the size of arrays

# A product of a matrix and x. It is cached with the matrix and must not hold a reference to it: memory of a dropped
# weight is freed at once.
Product = Callable[[EncodedMatrix, mx.array], mx.array]


def matmul(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W [rows, columns] (`transpose`), or x [..., rows] @ W.

    A matrix with act-order is sorted by group at its first product, if its groups allow it.
    """
    matrix = sort_by_group(matrix) or matrix
    return _product_for(platform, matrix, x, transpose).run(matrix, x)


def is_replayable(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> bool:
    """Whether the product is only a graph: dequantizing a whole matrix waits for earlier products.

    Products with a stack always are.
    """
    if matrix.experts:
        return True
    return _product_for(platform, sort_by_group(matrix) or matrix, x, transpose).is_graph


@dataclass(frozen=True)
class BoundProduct:
    """A planned product as a function of matrix and x, and whether that function only builds a graph."""

    run: Product
    is_graph: bool


def _product_for(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> BoundProduct:
    key = (x.shape, x.dtype, transpose)
    return matrix.kept(platform, key, lambda: bound_product(platform, matrix, *key))


def bound_product(
    platform: str, matrix: EncodedMatrix, shape: tuple[int, ...], dtype: mx.Dtype, transpose: bool
) -> BoundProduct:
    """The product with x of that shape and type."""
    operation = MATMUL_T if transpose else MATMUL
    *leading, inputs = shape
    plan = dispatch.plan(device(platform), matrix, prod(leading), dtypes.name(dtype), operation)
    steps = [_permutation(platform, matrix, plan.before), _product(platform, matrix, plan, dtype, transpose)]
    steps.append(_permutation(platform, matrix, plan.after))
    outputs = matrix.rows if transpose else matrix.columns
    if len(leading) != 1:
        steps = [lambda _, x: x.reshape(-1, inputs), *steps, lambda _, x: x.reshape(*leading, outputs)]
    return BoundProduct(_in_turn([step for step in steps if step]), plan.route != "dequantize_then_gemm")


def _in_turn(steps: list[Product]) -> Product:
    if len(steps) == 1:
        return steps[0]

    def run(matrix: EncodedMatrix, x: mx.array) -> mx.array:
        for step in steps:
            x = step(matrix, x)
        return x

    return run


def _permutation(platform: str, matrix: EncodedMatrix, launch: Launch | None) -> Product | None:
    if launch is None:
        return None
    permute, order = bind(platform, None, launch), getattr(matrix, launch.operand)
    return lambda _, x: permute(x, order)


def _product(platform: str, matrix: EncodedMatrix, plan: Plan, dtype: mx.Dtype, transpose: bool) -> Product:
    if plan.route == "dense":
        return lambda matrix, x: _times(x, stored(matrix, x.dtype), transpose)
    if plan.route == "dequantize_then_gemm":
        return lambda matrix, x: dequantized_product(platform, matrix, plan, x, transpose)
    return _in_turn([_step(bind(platform, matrix, launch, dtypes.name(dtype))) for launch in plan.launches])


def _step(run: Callable[..., mx.array]) -> Product:
    return lambda _, x: run(x)


def _times(x: mx.array, dense: mx.array | None, transpose: bool) -> mx.array:
    assert dense is not None
    return x @ (dense.T if transpose else dense)


def dequantized_product(platform: str, matrix: EncodedMatrix, plan: Plan, x: mx.array, transpose: bool) -> mx.array:
    """Dequantizes one bounded region of the matrix at a time, in x's type, for MLX's own product."""
    if len(plan.regions) == 1:
        with suppress(ValueError):
            mx.eval(_in_flight()[:-1])
        return _submitted(_times(x, region(platform, matrix, x.dtype, plan.regions[0]), transpose))
    parts: list[mx.array] = []
    with suppress(ValueError):
        mx.eval(x)  # so that its memory is not counted as a region's
    limit = mx.get_active_memory() + DENSE_BYTES + ROUNDING
    for bounds in plan.regions:
        parts.append(_times(x, region(platform, matrix, x.dtype, bounds), transpose))
        limit += parts[-1].nbytes
        _wait(parts, limit)
    return mx.concatenate(parts, axis=-1)


_submissions = threading.local()


def _in_flight() -> list[mx.array]:
    """Markers of this thread's last two products by dequantized matrices, which have their values when those do."""
    if not hasattr(_submissions, "markers"):
        _submissions.markers = []
    return _submissions.markers


def _submitted(product: mx.array) -> mx.array:
    """Begins to compute a product. The next but one waits for it: dequantized matrices of two exist at a time.

    Without this, MLX would dequantize a whole prompt's layers ahead. Its marker keeps no memory of the product.
    """
    with suppress(ValueError):
        marker = product[:1, :1] + 0
        mx.async_eval(product, marker)
        _submissions.markers = [*_in_flight()[-1:], marker]
    return product


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
