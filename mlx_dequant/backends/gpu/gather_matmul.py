"""Products with matrices of a stack on a GPU, by ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import mlx.core as mx

from ... import dtypes, launches
from ...encoded import EncodedMatrix
from ...kernels import THREADS
from ...launches import MAX_THREADS
from ..arrays import clamped_int32
from .act_order import sort_by_group
from .launch import bind, bound, device
from .matmul import bound_product
from .queue import queued

IN_ORDER = 1 << 25  # numbers of x that are put in the orders of experts at a time: 64 or 128 MB

Product = Callable[[EncodedMatrix, mx.array, mx.array], mx.array]


def gather_matmul(
    platform: str, matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool, sorted: bool = False
) -> mx.array:
    """[*ids.shape, outputs]: each row of x [..., inputs] times its experts. An id out of range gives NaN.

    A row has ids.size / rows experts, which follow each other in ids. Kernels know no other axes. A stack with
    act-order is sorted by group at its first product, if its groups allow it.
    """
    matrix = sort_by_group(matrix) or matrix
    if matrix.has_g_idx:
        return _by_each_expert(platform, matrix, x, clamped_int32(ids), transpose)
    M = prod(x.shape[:-1])
    k = ids.size // M
    step = max(_pairs(matrix, x.shape[-1]) // k, 1)
    if step < M:
        rows, choices = x.reshape(M, -1), ids.reshape(M, k)
        parts = [(rows[at : at + step], choices[at : at + step]) for at in range(0, M, step)]
        made = [gather_matmul(platform, matrix, *part, transpose, sorted) for part in parts]
        return mx.concatenate(made).reshape(*ids.shape, -1)
    ids = ids if ids.dtype == mx.uint32 else clamped_int32(ids)  # as they are: a cast is a launch
    key = (M, ids.shape, x.dtype, ids.dtype, transpose, sorted)
    product: Product = bound.of(("experts", platform, matrix.kind, *key), lambda: _product(platform, matrix, *key))
    return product(matrix, x, ids)


def _pairs(matrix: EncodedMatrix, inputs: int) -> int:
    """Pairs of a row of x and an expert in a launch: a threadgroup of each makes 8 results or more.

    Kernels count the numbers of x and of the result in 32 bits: these are at most 2^27.
    """
    outputs = max(matrix.rows // matrix.experts, matrix.columns)
    pairs = MAX_THREADS // THREADS // -(-outputs // 8)
    return pairs if matrix.perm is None else min(pairs, IN_ORDER // inputs)


def _by_each_expert(platform: str, matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool) -> mx.array:
    """The same with a stack that cannot be sorted: all rows times each expert's dequantized weights in turn."""
    rows = x.reshape(-1, x.shape[-1])
    choices = mx.where(ids < 0, ids + matrix.experts, ids).reshape(len(rows), -1, 1)
    product = bound_product(platform, matrix.expert(0), rows.shape, x.dtype, transpose)
    made = mx.array(mx.nan, x.dtype)
    for number in range(matrix.experts):

        def chosen(expert: EncodedMatrix, made: mx.array, number: int = number) -> mx.array:
            return mx.where(choices == number, product.run(expert, rows)[:, None], made)

        made = queued(product.dense_bytes, chosen, matrix.expert(number), made)
    return made.reshape(*ids.shape, -1)


@lru_cache(maxsize=64)
def _numbers(count: int) -> mx.array:
    numbers = mx.arange(count, dtype=mx.uint32)
    mx.eval(numbers)  # other threads could not
    return numbers


def _product(
    platform: str,
    matrix: EncodedMatrix,
    M: int,
    shape: tuple[int, ...],
    dtype: mx.Dtype,
    ids_dtype: mx.Dtype,
    transpose: bool,
    sorted: bool,
) -> Product:
    name, types = dtypes.name(dtype), f"{dtypes.name(dtype)}, {ids_dtype}"
    count = prod(shape)
    facts = (device(platform), matrix, M, count // M, name, transpose)
    many = launches.gather_many(*facts)
    launch = many or launches.gather_few(*facts)
    run = bind(platform, matrix, launch, types, (*shape, launch.shape[-1]))
    if many is None:
        return run
    permute = None
    if launches.permuted_side(matrix, transpose) == "inputs":
        # A row of x is read by many threadgroups. Its inputs are put in order once.
        in_order = launches.expert_permutation(matrix.experts, M, count // M, matrix.K, name)
        permute = bind(platform, None, in_order, str(ids_dtype))

    def product(matrix: EncodedMatrix, x: mx.array, ids: mx.array) -> mx.array:
        if permute:
            x = permute(None, x, matrix.perm, ids)
        if sorted:
            return run(matrix, x, ids, _numbers(count))
        ids = ids.reshape(-1)
        order = mx.argsort(ids)
        return run(matrix, x, ids[order], order)

    return product
