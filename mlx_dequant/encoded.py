"""What the backends take: a matrix as it is stored, and the parameters of a launch. Imports no array library."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any

from .errors import FormatError
from .kept import Kept, Numbers
from .registry import FAMILIES, Family, Format


@dataclass(frozen=True)
class Region:
    """A rectangle of the stored matrix; its first column is a multiple of 32."""

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


@dataclass(frozen=True)
class LaunchParams:
    """The parameters of a launch: the fields of `metal/launch_params.metal`, in the same order."""

    rows: int = 0
    columns: int = 0
    first_row: int = 0
    end_row: int = 0
    first_column: int = 0
    end_column: int = 0
    blocks_per_row: int = 0
    group_size: int = 0
    group_multiplier: int = 0
    group_shift: int = 0
    zero_word: int = 0
    zero_field: int = 0
    has_zeros: int = 0
    groups_per_row: int = 0
    M: int = 0
    split_k: int = 1
    tiles_multiplier: int = 0
    tiles_shift: int = 0
    experts: int = 0
    choices: int = 0
    across: int = 0
    expert_stride_0: int = 0
    expert_stride_1: int = 0
    expert_stride_2: int = 0
    expert_stride_3: int = 0

    @property
    def words(self) -> tuple[int, ...]:
        """uint32 values in the order of the shader's struct."""
        return tuple(getattr(self, name) for name in PARAMS)


PARAMS = tuple(param.name for param in fields(LaunchParams))


MAX_PRODUCTS = 64  # of a matrix and a kind of product

_kinds = Numbers()


@dataclass(frozen=True, eq=False)
class EncodedMatrix:
    """A quantized matrix in the arrays of its checkpoint. Whoever makes one has checked that it is valid.

    Attributes:
        arrays: arrays by the names of `Family.arrays`; None for an absent one.
        format: the row of the registry.
        rows: rows of the stored matrix, leading axes folded in.
        columns: columns of the stored matrix.
        scale_dtype: type of the scales: "float32", "float16" or "bfloat16".
        loader_params: the fields of `LaunchParams` that the family's loader reads.
        has_g_idx: whether each input's group is looked up in g_idx (act-order).
        experts: number of matrices in a stack, 0 for a single matrix. A stack's arrays have a first axis of experts.
        perm: int32 [K], a stack's [experts, K], or None. For a matrix sorted by group: input i of it was input perm[i].
        inv_perm: int32 [K] or None: input i moved to inv_perm[i]. A stack has none.
        cache: what backends derive from the matrix; it goes with the matrix.
    """

    arrays: Mapping[str, Any]
    format: Format
    rows: int
    columns: int
    scale_dtype: str = "float32"
    loader_params: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    has_g_idx: bool = False
    experts: int = 0
    perm: Any = None
    inv_perm: Any = None
    cache: dict[Any, Any] = field(default_factory=lambda: {}, repr=False)

    def __post_init__(self) -> None:
        """Checks what shaders count in 32 bits: blocks, words of codes, scales.

        Raises:
            FormatError: there are more.
        """
        form = self.format
        per_row = -(-self.columns * form.bits // 32) if form.bits else self.columns // form.weights
        blocks = 0 if form.weights == 1 else self.rows * per_row
        scales = self.arrays.get("scales")
        largest = max(blocks, 0 if scales is None else prod(scales.shape))
        if largest >= 2**32:
            raise FormatError(f"{form.name}: found {largest} blocks, words or scales, expected fewer than {2**32}")

    @cached_property
    def family(self) -> Family:
        return FAMILIES[self.format.family]

    @cached_property
    def layout(self) -> str:
        """ "KN" where a stored row is an input, "NK" where it is an output."""
        return self.family.layout

    @property
    def K(self) -> int:
        """in_features of the linear layer."""
        return self.rows // max(self.experts, 1) if self.layout == "KN" else self.columns

    @property
    def N(self) -> int:
        """out_features of the linear layer."""
        return self.columns if self.layout == "KN" else self.rows // max(self.experts, 1)

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def group_size(self) -> int:
        """Inputs in a group, 2^31 if there is only one group; 0 for GGUF."""
        return self.loader_params.get("group_size", 0)

    @property
    def whole(self) -> Region:
        """The region of all rows and columns."""
        return Region(0, self.rows, 0, self.columns)

    @cached_property
    def kind(self) -> int:
        """A number that matrices share for which launches are the same: only the values of their arrays differ."""
        arrays = tuple(
            (name, None if array is None else (tuple(array.shape), array.dtype)) for name, array in self.arrays.items()
        )
        numbers = tuple(self.loader_params.items())
        facts = (self.format, self.rows, self.columns, self.scale_dtype, self.has_g_idx, self.experts)
        return _kinds.of((*facts, self.perm is None, numbers, arrays))

    def kept(self, kind: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """A product of this matrix, made once and kept with it; `MAX_PRODUCTS` of a kind are."""
        return self.cache.setdefault(kind, Kept(MAX_PRODUCTS)).of(key, make)

    def kernel_arrays(self) -> list[Any]:
        """The arrays in the loader's order, None for an absent one; of a sorted matrix, perm in the place of g_idx."""
        given = self.arrays if self.perm is None else {**self.arrays, "g_idx": self.perm}
        return [given.get(name) for name, _ in self.family.arrays]

    def expert(self, number: int) -> EncodedMatrix:
        """A matrix of a stack, whose arrays are slices of the stack's."""
        arrays = {name: None if array is None else array[number] for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, rows=self.rows // self.experts, experts=0, cache={})

    def params(self, region: Region | None = None, **launch: int) -> LaunchParams:
        """The parameters of a launch over a region of this matrix, by default all of it."""
        region = region or self.whole
        return LaunchParams(
            rows=self.rows,
            columns=self.columns,
            first_row=region.first_row,
            end_row=region.end_row,
            first_column=region.first_column,
            end_column=region.end_column,
            **self.loader_params,
            **launch,
        )
