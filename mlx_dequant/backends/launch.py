"""What a launch tells a program, as formats/sizes.metal reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..weights.base import QuantizedWeight


@dataclass(frozen=True)
class Region:
    """Rows and columns of the matrix as it is stored; the first column is a multiple of 32."""

    first_row: int
    end_row: int
    first_column: int
    end_column: int

    @property
    def rows(self) -> int:
        return self.end_row - self.first_row

    @property
    def columns(self) -> int:
        return self.end_column - self.first_column


def whole(weight: QuantizedWeight) -> Region:
    """The region that is all of the weight."""
    return Region(0, weight.rows, 0, weight.columns)


def sizes(weight: QuantizedWeight, part: Region, vectors: int = 0, splits: int = 1) -> list[int]:
    """The numbers of a launch; to unpack on a GPU, a divider in the place of vectors and splits."""
    place = [part.first_row, part.end_row, part.first_column, part.end_column]
    layout = [*weight.layout, 0, 0, 0, 0, 0][:5]
    return [weight.rows, weight.columns, *place, *layout, vectors, splits]
