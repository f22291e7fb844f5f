"""Dequantized weights, products and rows of a matrix of torch tensors, as `dispatch.plan` says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ... import dispatch, launches
from ...dispatch import MATMUL, MATMUL_T, Plan
from ...encoded import EncodedMatrix, Region
from ...launches import Launch
from ..arguments import FLOATS
from .act_order import sort_by_group
from .launch import DEVICE, DTYPES, bind

# A step of a product. It is cached with the matrix and does not refer to it.
Step = Callable[[torch.Tensor], torch.Tensor]


def dequantize(matrix: EncodedMatrix, dtype: torch.dtype) -> torch.Tensor:
    """[rows, columns] weights, in memory of their own."""
    stored = _stored(matrix, dtype)
    return _region(matrix, dtype, matrix.whole)() if stored is None else stored.clone()


def gather(matrix: EncodedMatrix, ids: torch.Tensor, dtype: torch.dtype, axis: int) -> torch.Tensor:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    An id out of range gives NaN. Ids outside of int32 are clamped to its ends, which are out of range.
    """
    ids = ids.clamp(-(2**31), 2**31 - 1) if ids.dtype == torch.int64 else ids
    operation = "gather_columns" if axis else "gather_rows"
    (launch,) = dispatch.plan(DEVICE, matrix, ids.numel(), FLOATS[dtype], operation).launches
    return bind(matrix, launch, "int32")(ids.to(torch.int32))


def matmul(matrix: EncodedMatrix, x: torch.Tensor, transpose: bool) -> torch.Tensor:
    """x [M, columns] @ W.T for the stored matrix W [rows, columns] (`transpose`), or x [M, rows] @ W.

    A matrix with act-order is sorted by group at its first product, if its groups allow it.
    """
    matrix = sort_by_group(matrix) or matrix
    key = (len(x), x.dtype, transpose)
    steps: list[Step] = matrix.kept("products", key, lambda: _steps(matrix, *key))
    for step in steps:
        x = step(x)
    return x


def _steps(matrix: EncodedMatrix, M: int, dtype: torch.dtype, transpose: bool) -> list[Step]:
    plan = dispatch.plan(DEVICE, matrix, M, FLOATS[dtype], MATMUL_T if transpose else MATMUL)
    steps = [_permutation(matrix, plan.before)] if plan.before else []
    steps += _product(matrix, plan, dtype, transpose)
    return [*steps, _permutation(matrix, plan.after)] if plan.after else steps


def _permutation(matrix: EncodedMatrix, launch: Launch) -> Step:
    permute, order = bind(None, launch), getattr(matrix, launch.operand)
    return lambda x: permute(x, order)


def _product(matrix: EncodedMatrix, plan: Plan, dtype: torch.dtype, transpose: bool) -> list[Step]:
    if plan.route == "dense":
        dense = _stored(matrix, dtype)
        assert dense is not None
        return [lambda x: x @ (dense.T if transpose else dense)]
    if plan.route != "dequantize_then_gemm":
        return [bind(matrix, launch, FLOATS[dtype]) for launch in plan.launches]
    regions = [_region(matrix, dtype, region) for region in plan.regions]

    def product(x: torch.Tensor) -> torch.Tensor:
        # Torch runs its queue in turn, so a region's memory is the next one's.
        parts = [x @ (weights().T if transpose else weights()) for weights in regions]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    return [product]


def _region(matrix: EncodedMatrix, dtype: torch.dtype, region: Region) -> Callable[[], torch.Tensor]:
    """Dequantizes a region of the matrix."""
    runs = [bind(matrix, launch) for launch in launches.dequantize(matrix, FLOATS[dtype], region)]

    def weights() -> torch.Tensor:
        parts = [run() for run in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return weights


def _stored(matrix: EncodedMatrix, dtype: torch.dtype) -> torch.Tensor | None:
    """[rows, columns] of a matrix that holds values of that type: a view of its bytes. None for any other."""
    if not matrix.format.stored or DTYPES[matrix.format.stored] != dtype:
        return None
    return matrix.arrays["blocks"].reshape(-1).view(dtype).reshape(matrix.rows, matrix.columns)
