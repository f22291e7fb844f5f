"""Parts of a packed matrix: some of its rows or of its columns, with codes, scales and zero points as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, lcm
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..fast_divmod import grouping
from ..registry import Format

ROWS, COLUMNS = "rows", "columns"
# What the last axes of each family's arrays count: rows or columns of [out, in], by ones, words of codes, groups or
# blocks.
_BY_INPUT = {"scales": ((COLUMNS, "group"), (ROWS, "one")), "qzeros": ((COLUMNS, "group"), (ROWS, "word"))}
_G_IDX = {"g_idx": ((COLUMNS, "one"),)}
_AXES = MappingProxyType(
    {
        "gguf": {"blocks": ((ROWS, "one"), (COLUMNS, "block"))},
        "awq": {"qweight": ((COLUMNS, "one"), (ROWS, "word")), **_BY_INPUT},
        "gptq": {"qweight": ((COLUMNS, "word"), (ROWS, "one")), **_BY_INPUT, **_G_IDX},
        "compressed_tensors": {
            "codes": ((ROWS, "one"), (COLUMNS, "word")),
            "scales": ((ROWS, "one"), (COLUMNS, "group")),
            "zeros": ((ROWS, "word"), (COLUMNS, "group")),
            **_G_IDX,
        },
    }
)


@dataclass(frozen=True)
class Cut:
    """Some rows (outputs) or some columns (inputs) of a matrix [out, in].

    Attributes:
        axis: "rows" or "columns".
        length: how many of them the whole matrix has.
        ranges: first and end of each run of them, in the order in which they are put together.
    """

    axis: str
    length: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """How many rows or columns it has."""
        return sum(end - first for first, end in self.ranges)

    def check(self, shape: Sequence[int]) -> None:
        """Raises FormatError unless this is a cut of a matrix [..., out, in] of that shape."""
        found = shape[-2 if self.axis == ROWS else -1] if len(shape) > 1 else None
        if found != self.length:
            raise FormatError(f"shape: found {tuple(shape)}, expected a matrix of {self.length} {self.axis}")
        for first, end in self.ranges:
            if not 0 <= first <= end <= self.length:
                raise FormatError(f"{self.axis}: found {first} to {end}, expected 0 <= first <= end <= {self.length}")

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """The shape of the part of a matrix [..., out, in]."""
        last = (self.size, whole[-1]) if self.axis == ROWS else (whole[-2], self.size)
        return (*whole[:-2], *last)


@dataclass(frozen=True)
class Places:
    """What a cut takes of an array.

    Attributes:
        array: its name.
        axis: the axis that is cut, counted from the end.
        length: of that axis, in the whole array.
        runs: first and end of each run on it.
    """

    array: str
    axis: int
    length: int
    runs: list[tuple[int, int]]

    def slices(self, shape: Sequence[int]) -> list[tuple[Any, ...]]:
        """Indices of the runs.

        Raises:
            FormatError: an array of that shape is not the whole.
        """
        if len(shape) < -self.axis or shape[self.axis] != self.length:
            raise FormatError(f"{self.array}: found shape {tuple(shape)}, expected {self.length} on axis {self.axis}")
        rest = (slice(None),) * (-self.axis - 1)
        return [(..., slice(first, end), *rest) for first, end in self.runs]


@dataclass(frozen=True)
class Packing:
    """How a weight's arrays count its rows and columns.

    Attributes:
        format: the row of the registry.
        group_size: inputs in a group; -1 or 0 for a single one.
        act_order: whether g_idx says the group of an input. All groups then stay with each part.
    """

    format: Format
    group_size: int = 0
    act_order: bool = False

    def units(self, columns: int) -> tuple[int, int]:
        """Numbers of rows and of columns by whose multiples a matrix of so many columns can be cut."""
        if self.format.family == "gguf":
            return 1, self.format.weights
        grouped = 0 < self.group_size < columns and not self.act_order
        return self._word, lcm(self._word, self.group_size) if grouped else self._word

    @property
    def _word(self) -> int:
        """Codes of the fewest whole words."""
        return 32 // gcd(32, self.format.bits)

    def places(self, array: str, cut: Cut) -> Places | None:
        """What a cut takes of an array; None if it takes all.

        Raises:
            FormatError: the cut splits a word, a group or a block.
        """
        axes = _AXES[self.format.family][array]
        grouped = 0 < self.group_size < cut.length and not self.act_order
        for at, (axis, unit) in enumerate(axes):
            if axis == cut.axis and (unit != "group" or grouped):
                last = len(cut.ranges) - 1
                runs = [self._run(unit, run, cut, number == last) for number, run in enumerate(cut.ranges)]
                return Places(array, at - len(axes), self._run(unit, (0, cut.length), cut)[1], runs)
        return None

    def _run(self, unit: str, run: tuple[int, int], cut: Cut, is_last: bool = True) -> tuple[int, int]:
        """A run of rows or columns as one of an array's. A part of a unit may only be at the end of all."""
        form = self.format
        many, each = {
            "one": (1, 1),
            "word": (form.bits, 32),
            "group": (1, self.group_size),
            "block": (form.bytes, form.weights),
        }[unit]
        first, end = run
        size = {"word": self._word}.get(unit, each)
        if first % size or (end % size and not (is_last and end == cut.length)):
            raise FormatError(
                f"{cut.axis}: found {first} to {end} of {cut.length}, expected multiples of {size} "
                f"({form.title}: a cut may not split a {unit})"
            )
        return first * many // each, -(-end * many // each)


def cut_matrix(matrix: EncodedMatrix, cut: Cut) -> EncodedMatrix:
    """The part of a matrix, or of each of a stack, with arrays of its own."""
    packing = Packing(matrix.format, matrix.group_size, matrix.has_g_idx)
    arrays = {
        name: None if array is None else of_mlx(array, packing.places(name, cut))
        for name, array in matrix.arrays.items()
    }
    by_input, params = matrix.layout == "KN", dict(matrix.loader_params)
    size = {ROWS: matrix.N, COLUMNS: matrix.K, cut.axis: cut.size}
    rows, columns = (size[COLUMNS], size[ROWS]) if by_input else (size[ROWS], size[COLUMNS])
    if matrix.format.weights:
        params["blocks_per_row"] = columns // matrix.format.weights
    else:
        scales: Any = arrays["scales"]
        groups = scales.shape[-2 if by_input else -1]
        params |= grouping(matrix.group_size, groups)
        params |= {"groups_per_row": groups} if "groups_per_row" in params else {}
    rows *= max(matrix.experts, 1)
    return replace(matrix, arrays=arrays, rows=rows, columns=columns, loader_params=params)


def of_numpy(values: NDArray[Any], places: Places | None) -> NDArray[Any]:
    """A part of an array; a view where it is a single run."""
    if places is None:
        return values
    parts = [values[index] for index in places.slices(values.shape)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, places.axis)


def of_mlx(values: mx.array, places: Places | None) -> mx.array:
    """The same of MLX's arrays, always a copy: a view would keep the whole."""
    if places is None:
        return values
    part = mx.concatenate([values[index] for index in places.slices(values.shape)], places.axis)
    return (mx.contiguous(part).view(mx.uint8) + mx.zeros(1, mx.uint8)).view(part.dtype)


def of_dense(array: mx.array, cut: Cut) -> mx.array:
    """The same of a dense matrix [..., out, in]."""
    return of_mlx(array, dense_places(cut))


def dense_places(cut: Cut) -> Places:
    """What a cut takes of a dense matrix [..., out, in]."""
    return Places("weight", -2 if cut.axis == ROWS else -1, cut.length, list(cut.ranges))


def of_vector(array: mx.array, cut: Cut) -> mx.array:
    """The part of a bias [..., out] that belongs to some rows."""
    return of_mlx(array, Places("bias", -1, cut.length, list(cut.ranges)))
