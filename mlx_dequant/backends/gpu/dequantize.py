"""Dequantized weights on a GPU: a whole matrix, or a region of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import mlx.core as mx

from ... import dispatch, dtypes, launches
from ...encoded import EncodedMatrix, Region
from ...launches import Launch
from .launch import bind, bound, device


def dequantize(platform: str, matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights."""

    def planned() -> Iterable[Launch]:
        plan = dispatch.plan(device(platform), matrix, 0, dtypes.name(dtype), "dequantize")
        return plan.launches

    return _launched(platform, matrix, (dtype,), planned)


def region(platform: str, matrix: EncodedMatrix, dtype: mx.Dtype, part: Region) -> mx.array:
    """[part.rows, part.columns] weights."""
    name = dtypes.name(dtype)
    return _launched(platform, matrix, (dtype, part), lambda: launches.dequantize(matrix, name, part))


def _launched(
    platform: str, matrix: EncodedMatrix, how: tuple[Hashable, ...], planned: Callable[[], Iterable[Launch]]
) -> mx.array:
    """What the launches make, in rows one after the other. They are bound once for matrices of a kind."""
    key = ("dequantize", platform, matrix.kind, *how)
    runs = bound.of(key, lambda: [bind(platform, matrix, launch) for launch in planned()])
    parts = [run(matrix) for run in runs]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)
