"""Which kernels run: a pure function of the device, the matrix, the number of rows of x and their type.

`tuning.py` has the tables, `launches.py` the grids. A plan is made once and launched many times. It names no array,
and this module imports no array library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from . import launches
from .encoded import EncodedMatrix, Region
from .launches import Launch
from .tuning import Device, Route, tuning

# Limit of the bytes that are dequantized at a time for MLX's own product. A layer of a usual model fits.
DENSE_BYTES = 512 << 20

# x @ W.T and x @ W for the stored matrix W.
MATMUL_T, MATMUL = "matmul_t", "matmul"


@dataclass(frozen=True)
class Plan:
    """How an operation runs.

    Attributes:
        route: "gemv", "fused_gemm", "dequantize_then_gemm", "dense", or the operation's name.
        reason: why, in a line.
        launches: launches in turn, each of which takes the result of the one before; () where MLX's own product runs.
            For "dequantize", launches of their own for parts of the matrix.
        before: a launch on x.
        after: a launch on the result.
        regions: regions of the matrix to dequantize one after the other ("dequantize_then_gemm").
    """

    route: str
    reason: str
    launches: tuple[Launch, ...] = ()
    before: Launch | None = None
    after: Launch | None = None
    regions: tuple[Region, ...] = ()


def plan(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    """The plan of an operation.

    Args:
        M: rows of x, or number of ids for a gather; ignored for "dequantize".
        dtype: "float32", "float16" or "bfloat16": type of x, or of the result of a gather or of "dequantize".
        operation: a key of `RULES`.

    Raises:
        ValueError: there is no such operation.
    """
    if operation not in RULES:
        raise ValueError(f"operation: found {operation!r}, expected one of {', '.join(RULES)}")
    return RULES[operation](device, matrix, M, dtype, operation)


def _dequantize(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    return Plan(operation, "each weight once", tuple(launches.dequantize(matrix, dtype, matrix.whole)))


def _gather(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    return Plan(operation, "each id once", (launches.gather(matrix, M, dtype, operation),))


def route(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> Route:
    """The first row of the device's table whose conditions hold."""
    conditions = _conditions(matrix, dtype)
    return next(row for row in tuning(device).routes if M >= row.M and row.when <= conditions)


def _conditions(matrix: EncodedMatrix, dtype: str) -> frozenset[str]:
    facts = {
        "long rows": max(matrix.K, matrix.N) > 1 << 25,
        "float32 x": dtype == "float32",
        "looked up": matrix.layout == "KN" and matrix.group_size % 32 != 0,
        "unsorted": matrix.has_g_idx,
    }
    return frozenset(name for name, holds in facts.items() if holds)


def _matmul(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    row = route(device, matrix, M, dtype)
    transpose = operation == MATMUL_T
    forward = transpose == (matrix.layout == "NK")
    before = after = None
    if matrix.perm is not None:
        permute = launches.permutation(device, M, matrix.K, dtype, "perm" if forward else "inv_perm")
        before, after = (permute, None) if forward else (None, permute)
    if row.name != "gemv" and matrix.format.stored == dtype:
        return Plan("dense", "the matrix is stored in x's type, so MLX multiplies it directly", (), before, after)
    if row.name == "dequantize_then_gemm":
        return Plan(row.name, row.reason, (), before, after, _regions(matrix, dtype, transpose))
    if row.name == "fused_gemm":
        return Plan(row.name, row.reason, launches.many_rows(device, matrix, M, dtype, transpose), before, after)
    # The kernels for few rows permute x as they read it.
    return Plan(row.name, row.reason, launches.few_rows(device, matrix, M, dtype, transpose), None, after)


def _regions(matrix: EncodedMatrix, dtype: str, transpose: bool) -> tuple[Region, ...]:
    """The matrix, cut along the product's outputs where it is large: two regions have at most `DENSE_BYTES`."""
    inputs, outputs = (matrix.columns, matrix.rows) if transpose else (matrix.rows, matrix.columns)
    row_bytes = max(inputs * (4 if dtype == "float32" else 2), 1)
    if outputs * row_bytes <= DENSE_BYTES:
        return (matrix.whole,)
    limit = DENSE_BYTES // 2 // row_bytes
    step = next((limit // multiple * multiple for multiple in (1024, 128, 32) if limit >= multiple), 32)
    edges = pairwise([*range(0, outputs, step), outputs])
    return tuple(Region(at, end, 0, inputs) if transpose else Region(0, inputs, at, end) for at, end in edges)


Rule = Callable[[Device, EncodedMatrix, int, str, str], Plan]

# One rule for each operation.
RULES: dict[str, Rule] = {
    MATMUL_T: _matmul,
    MATMUL: _matmul,
    "dequantize": _dequantize,
    "gather_rows": _gather,
    "gather_columns": _gather,
}
