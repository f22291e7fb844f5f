"""The base class of quantized weights."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx
import numpy as np

from .. import backends, dtypes, ops
from ..act_order import within
from ..encoded import EncodedMatrix
from ..ops.operand import check_stack
from ..ops.replay import check_untraced
from ..registry import Format, formats
from . import check
from .cut import COLUMNS, ROWS, Cut, cut_matrix

if TYPE_CHECKING:
    from typing_extensions import Self


class QuantizedWeight(ABC):
    """A weight that stays quantized. It is checked when it is made, and immutable.

    Attributes:
        matrix: the arrays and numbers that the backends take.
        shape: shape of `dequantize()`.
        in_features: inputs of the linear layer.
        out_features: outputs of the linear layer.
        dtype: the default type of `dequantize()`.
    """

    family: ClassVar[str]  # of the registry
    # The constructor's arguments by the names of arrays, where they have others.
    arguments: ClassVar[Mapping[str, str]] = MappingProxyType({})
    matrix: EncodedMatrix
    shape: tuple[int, ...]
    in_features: int
    out_features: int
    dtype: mx.Dtype

    def _set(self, matrix: EncodedMatrix, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        matrix = replace(matrix, arrays=MappingProxyType(dict(matrix.arrays)), cache={})
        values: dict[str, Any] = {
            "matrix": matrix,
            "shape": shape,
            "in_features": matrix.K,
            "out_features": matrix.N if len(shape) == 2 else shape[-2] if len(shape) > 2 else 1,
            "dtype": dtype,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        mx.eval([array for array in matrix.arrays.values() if array is not None])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")

    def __copy__(self) -> Self:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        matrix = self.matrix
        plain: dict[str, Any] = {field.name: getattr(matrix, field.name) for field in fields(matrix)}
        plain |= {"arrays": dict(matrix.arrays), "loader_params": dict(matrix.loader_params)}
        plain |= {"format": matrix.format.name, "cache": {}}
        return _unpickled, (type(self), plain, self.shape, dtypes.name(self.dtype))

    @property
    def format(self) -> Format:
        """Its row of `mlx_dequant.formats()`."""
        return self.matrix.format

    @property
    def arrays(self) -> Mapping[str, mx.array | None]:
        """Its arrays by name, None for an absent one. Read only."""
        return self.matrix.arrays

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that are no arrays, as JSON has them."""
        size = self.matrix.group_size
        return {"bits": self.format.bits, "group_size": size if size < max(self.in_features, 1) else -1}

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def experts(self) -> int:
        """Matrices in a stack of shape [experts, out, in]; 1 for a single matrix."""
        return self.matrix.experts or 1

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self.arrays.values() if array is not None)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales and zero points included; 0 if there are no weights."""
        return 8 * self.nbytes / max(self.size, 1)

    def dequantize(self, dtype: mx.Dtype | None = None) -> mx.array:
        """The weights, of shape `shape`.

        Args:
            dtype: float32 (exact), float16 or bfloat16 (rounded once, to nearest even);
                `self.dtype` by default.
        """
        wanted: mx.Dtype = dtypes.checked(dtype or self.dtype)
        check_untraced("it dequantizes a weight")
        if self.size == 0:
            return mx.zeros(self.shape, wanted)
        weights = backends.dequantize(self.matrix, wanted)
        if self.matrix.experts and self.matrix.layout == "KN":
            return weights.reshape(self.experts, self.in_features, self.out_features).swapaxes(1, 2)
        return weights.reshape(self.shape)

    def __getitem__(self, expert: int) -> Self:
        """An expert's weight, of a stack [experts, out, in]; negative numbers count from the end.

        Raises:
            FormatError: this is no stack.
            IndexError: there is no such expert.
        """
        check_stack(self)
        number = check.integer("expert", expert)
        if not -self.experts <= number < self.experts:
            raise IndexError(f"expert: found {number}, expected {-self.experts} to {self.experts - 1}")
        return self._with(self.matrix.expert(number % self.experts))

    def _with(self, matrix: EncodedMatrix, shape: tuple[int, ...] | None = None, dtype: mx.Dtype | None = None) -> Self:
        """A weight of the same class with another matrix; of that matrix's shape and of the same type by default."""
        if shape is None:
            shape = (matrix.K, matrix.N) if matrix.layout == "KN" else (matrix.N, matrix.K)
        made = object.__new__(type(self))
        made._set(matrix, shape, dtype or self.dtype)
        return made

    def __iter__(self) -> Iterator[Self]:
        """The experts' weights."""
        check_stack(self)
        return (self[number] for number in range(self.experts))

    def linear(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """x [..., in] through the layer: [..., out] in x's type. See `mlx_dequant.linear`."""
        return ops.linear(x, self, bias)

    def gather_linear(self, x: mx.array, ids: mx.array, sorted: bool = False) -> mx.array:
        """x through the experts `ids` of a stack: [..., k, out] in x's type. See `mlx_dequant.gather_linear`."""
        return ops.gather_linear(x, self, ids, sorted)

    def take(self, ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
        """Rows `ids` of the [out, in] matrix: [*ids.shape, in]. See `mlx_dequant.take`."""
        return ops.take(self, ids, dtype)

    def rows(self, first: int, end: int) -> Self:
        """Rows `first` to `end` of the [out, in] matrix, or of each expert's: a weight of the same format and codes.

        Nothing is dequantized: the result of `linear` is that part of the whole weight's.

        Raises:
            FormatError: there are no such rows, or the cut splits a word of packed codes or zero points.
        """
        return self.cut(Cut(ROWS, self.out_features, ((check.integer("first", first), check.integer("end", end)),)))

    def columns(self, first: int, end: int) -> Self:
        """Columns `first` to `end` of the [out, in] matrix, or of each expert's: its inputs, still packed.

        With act-order each input keeps its group, so only words of codes limit where it can be cut.

        Raises:
            FormatError: there are no such columns, or the cut splits a block, a group or a word of packed codes.
        """
        return self.cut(Cut(COLUMNS, self.in_features, ((check.integer("first", first), check.integer("end", end)),)))

    def cut(self, cut: Cut) -> Self:
        """The rows or columns of a cut, as `rows` and `columns` give them."""
        whole = (*self.shape[:-2], self.out_features, self.in_features)
        cut.check(whole if len(self.shape) > 1 else self.shape)
        shape = cut.shape(whole)
        if len(shape) == 2 and self.matrix.layout == "KN":
            shape = shape[::-1]
        return self._with(cut_matrix(self.matrix, cut), shape)

    def replace(self, **arrays: mx.array) -> Self:
        """A copy of this weight with some of its arrays replaced.

        A new array has the shape and type of the old one; scales may have another float type.

        Raises:
            FormatError: an array is not one of the weight's, its shape or type differs, or g_idx is out of range.
        """
        changed = {name: check.array(name, array) for name, array in arrays.items()}
        for name, array in changed.items():
            old = self.arrays.get(name)
            check.one_of("array", name, tuple(name for name, array in self.arrays.items() if array is not None))
            assert old is not None
            check.shape(name, array, old.shape)
            allowed = tuple(map(dtypes.of, dtypes.FLOATS)) if name == "scales" else (old.dtype,)
            check.one_of(f"{name}: type", array.dtype, allowed)
            if name == "g_idx":
                scales = self.arrays["scales"]
                assert scales is not None
                within(name, np.asarray(array), scales.size // (self.experts * self.out_features))
        scales = changed.get("scales")
        dtype = self.dtype if scales is None else scales.dtype
        scale_dtype = self.matrix.scale_dtype if scales is None else dtypes.name(dtype)
        matrix = replace(self.matrix, arrays={**self.arrays, **changed}, scale_dtype=scale_dtype)
        return self._with(matrix, self.shape, dtype)

    def __repr__(self) -> str:
        size = f"{self.bits_per_weight:.3g} bits a weight"
        return f"{type(self).__name__}({self.format.title}, shape={self.shape}, {size})"


def _unpickled(kind: type[QuantizedWeight], plain: dict[str, Any], shape: tuple[int, ...], dtype: str) -> Any:
    weight = object.__new__(kind)
    plain["format"] = formats()[plain["format"]]
    weight._set(EncodedMatrix(**plain), shape, dtypes.of(dtype))
    return weight
