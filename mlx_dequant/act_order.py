"""Act-order: the group of each input, and matrices whose inputs are sorted by group. For arrays of any library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from .encoded import EncodedMatrix
from .errors import FormatError
from .fast_divmod import grouping

CHUNK_BYTES = 32 << 20  # of codes that are bit-unpacked at a time
GROUP_MULTIPLE = 32  # groups must be multiples of this many inputs, which kernels assume to share a group

# Codes, their bits, the order of the inputs (a stack's: of each expert's), and whether the layout is KN: the codes in
# that order.
Permute = Callable[[Any, int, np.ndarray, bool], Any]


def within(name: str, indices: np.ndarray, groups: int) -> np.ndarray:
    """A g_idx, checked to be 0 to groups - 1."""
    if indices.size and (indices.min() < 0 or indices.max() >= groups):
        raise FormatError(
            f"{name}: found groups {indices.min()} to {indices.max()}, "
            f"expected 0 to {groups - 1} ({groups} rows of scales)"
        )
    return indices


def groups_of(name: str, values: np.ndarray, groups: int, size: int) -> np.ndarray | None:
    """The group of each input, int32; None if it is input // size.

    vLLM's loaders put argsort(g_idx) in the place of g_idx: the inputs in the order of their groups, which tells the
    group of each again. With fewer groups than inputs the one cannot be taken for the other.
    """
    inputs = np.arange(len(values))
    if groups < len(values) and values.max(initial=0) >= groups and np.array_equal(np.sort(values), inputs):
        order, values = values, np.empty(len(values), np.int32)
        values[order] = inputs // size
    within(name, values, groups)
    return None if np.array_equal(values, inputs // size) else values.astype(np.int32)


def sort_by_group(
    matrix: EncodedMatrix,
    permute: Permute,
    to_numpy: Callable[[Any], np.ndarray],
    from_numpy: Callable[[np.ndarray], Any],
) -> EncodedMatrix | None:
    """`matrix` with its inputs sorted by group, made once; None without a g_idx or if it cannot be sorted.

    A stack is sorted if all its experts can be, to groups of one size.
    """
    if not matrix.has_g_idx:
        return None
    if "sorted" not in matrix.cache:
        matrix.cache.setdefault("sorted", _sorted(matrix, permute, to_numpy, from_numpy))
    return matrix.cache["sorted"]


def sorted_size(matrix: EncodedMatrix, group: np.ndarray) -> int | None:
    """The size of the groups of a matrix once it is sorted, the last one's at most that; None if it cannot be sorted.

    That is where groups have different sizes, or a size that 32 does not divide.

    Args:
        group: the matrix's g_idx [K], or [experts, K].
    """
    counts = np.stack([np.bincount(each, minlength=_groups(matrix)) for each in group.reshape(-1, matrix.K)])
    size = int(counts[0, 0])
    unequal = (counts[:, :-1] != size).any() or counts[:, -1].max() > size
    return None if size == 0 or size % GROUP_MULTIPLE or unequal else size


def _groups(matrix: EncodedMatrix) -> int:
    return prod(matrix.arrays["scales"].shape) // (matrix.N * max(matrix.experts, 1))


def _sorted(
    matrix: EncodedMatrix,
    permute: Permute,
    to_numpy: Callable[[Any], np.ndarray],
    from_numpy: Callable[[np.ndarray], Any],
) -> EncodedMatrix | None:
    """The sorted matrix, if it can be. Codes are new; scales and zero points are shared."""
    name = matrix.family.codes
    group = to_numpy(matrix.arrays["g_idx"])
    size = sorted_size(matrix, group)
    if size is None:
        return None
    perm = np.argsort(group, kind="stable").astype(np.int32)
    return replace(
        matrix,
        arrays={
            **matrix.arrays,
            name: permute(matrix.arrays[name], matrix.format.bits, perm, matrix.layout == "KN"),
            "g_idx": None,
        },
        loader_params={**matrix.loader_params, **grouping(size, _groups(matrix))},
        has_g_idx=False,
        perm=from_numpy(perm),
        # Products with a stack find an output's place in perm.
        inv_perm=None if matrix.experts else from_numpy(np.argsort(perm).astype(np.int32)),
        cache={},
    )
