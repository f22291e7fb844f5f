"""Products with a quantized matrix on a GPU: what `dispatch.plan` says, launched."""

from __future__ import annotations

from contextlib import suppress

import mlx.core as mx

from ... import dispatch, dtypes
from ...dispatch import DENSE_BYTES, MATMUL, MATMUL_T, Plan
from ...encoded import EncodedMatrix
from ...launches import Launch
from .act_order import sort_by_group
from .launch import device, run
from .unpacked import dequantize, region

PATIENCE = 500  # looks at the memory in use, a third of a microsecond each
ROUNDING = 1 << 20  # bytes that MLX may allocate beyond what arrays have


def matmul(platform: str, matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [M, columns] @ W.T for the stored matrix W [rows, columns] (`transpose`), or x [M, rows] @ W.

    A matrix with act-order is sorted by group, once, where its groups allow it.
    """
    matrix = sort_by_group(matrix) or matrix
    operation = MATMUL_T if transpose else MATMUL
    plan = dispatch.plan(device(platform), matrix, x.shape[0], dtypes.name(x.dtype), operation)
    x = _permuted(platform, matrix, plan.before, x)
    return _permuted(platform, matrix, plan.after, _product(platform, matrix, plan, x, transpose))


def _permuted(platform: str, matrix: EncodedMatrix, launch: Launch | None, x: mx.array) -> mx.array:
    return run(platform, matrix, launch, x, getattr(matrix, launch.operand)) if launch else x


def _product(platform: str, matrix: EncodedMatrix, plan: Plan, x: mx.array, transpose: bool) -> mx.array:
    if plan.route == "dense":
        dense = dequantize(platform, matrix, x.dtype)
        return x @ (dense.T if transpose else dense)
    if plan.route == "dequantize_then_gemm":
        return dequantized_product(platform, matrix, plan, x, transpose)
    parts: list[mx.array] = []
    for each in plan.passes:
        value = x if len(plan.passes) == 1 else x[each.first : each.end]
        for launch in each.launches:
            value = run(platform, matrix, launch, value)
        parts.append(value)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def dequantized_product(platform: str, matrix: EncodedMatrix, plan: Plan, x: mx.array, transpose: bool) -> mx.array:
    """Dequantizes a bounded part of the matrix at a time, in x's type, for MLX's own product."""
    parts: list[mx.array] = []
    with suppress(ValueError):
        mx.eval(x)  # not to be counted as a part's memory
    before = mx.get_active_memory()
    made = 0
    for part in plan.regions:
        dense = region(platform, matrix, x.dtype, part)
        parts.append(x @ (dense.T if transpose else dense))
        del dense
        made += parts[-1].nbytes
        if len(plan.regions) > 1:
            _wait(parts, before + made + DENSE_BYTES + ROUNDING)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _wait(parts: list[mx.array], limit: int) -> None:
    """Lets one part run while the next is made, and no more: MLX would make them all ahead.

    CUDA's memory is freed by a thread of MLX's, a little later: while more than `limit` bytes are in
    use, that is waited for too. Inside `mx.compile` and `mx.vmap` nothing can be waited for, and MLX decides.
    """
    with suppress(ValueError):
        mx.async_eval(parts[-1])
        mx.eval(parts[-2:-1])
        for _ in range(PATIENCE):
            if mx.get_active_memory() <= limit:
                return
        mx.synchronize()
