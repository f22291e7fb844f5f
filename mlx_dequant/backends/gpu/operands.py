"""The arrays that a product with a matrix reads, apart from the matrix: a trace takes them as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx

from ...encoded import EncodedMatrix
from .act_order import sort_by_group
from .launch import device_arrays

OPERANDS = "operands"  # in the cache of a matrix
LIKE = "like"  # in the cache of one that `Operands.like` made


@dataclass(frozen=True)
class Operands:
    """The arrays that products with a matrix read, sorted by group where it has act-order.

    Attributes:
        kind: of the matrix.
        arrays: in the order of `like`.
        like: the matrix with other arrays in the place of these. It holds none itself.
    """

    kind: int
    arrays: list[mx.array]
    like: Callable[[Sequence[mx.array]], EncodedMatrix]


def operands_of(matrix: EncodedMatrix) -> Operands:
    """A matrix's operands, found once."""
    found: Operands | None = matrix.cache.get(OPERANDS)
    if found is None:
        used = sort_by_group(matrix) or matrix
        arrays = [*device_arrays(used), *([] if used.inv_perm is None else [used.inv_perm])]
        absent = dict.fromkeys(used.arrays)
        present = [name for name, array in used.arrays.items() if array is not None]
        empty = replace(used, arrays=absent, perm=None, inv_perm=None, cache={})
        like = partial(_with, empty, present, used.perm is not None)
        # Threads that come here at once get the same arrays.
        matrix.cache.setdefault(OPERANDS, Operands(used.kind, arrays, like))
        return matrix.cache[OPERANDS]
    return found


def _with(empty: EncodedMatrix, present: list[str], is_sorted: bool, arrays: Sequence[mx.array]) -> EncodedMatrix:
    names = [name for name, _ in empty.family.arrays]
    given = dict(zip(names, arrays, strict=False))
    return replace(
        empty,
        arrays={**empty.arrays, **{name: given[name] for name in present}},
        perm=given["g_idx"] if is_sorted else None,
        inv_perm=arrays[-1] if len(arrays) > len(names) else None,
        cache={"gpu": list(arrays[: len(names)]), "sorted": None, LIKE: True},
    )
