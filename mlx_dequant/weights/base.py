"""What every packed weight is and does."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import backends, dtypes, products
from ..dtypes import FLOATS
from ..registry import Format
from . import check
from .act_order import SortedByGroup, sort_by_group

if TYPE_CHECKING:
    from typing_extensions import Self


class QuantizedWeight(ABC):
    """A weight that stays packed. Checked once, when it is made, and immutable after.

    Attributes:
        format: the row of `mlx_dequant.formats()` it is in.
        shape: shape of `dequantize()`.
        in_features: inputs of the linear layer it belongs to.
        out_features: outputs of that layer.
        dtype: type that `dequantize()` gives unless told otherwise.
    """

    format: Format
    shape: tuple[int, ...]
    in_features: int
    out_features: int
    dtype: mx.Dtype

    # For the backends: the arrays by the names of `kernel_source.INPUTS` (None where absent), the
    # scales' type, the numbers that the family's source reads, and a place to keep what a backend
    # derives.
    inputs: Mapping[str, mx.array | None]
    scales_dtype: mx.Dtype
    layout: tuple[int, ...]
    has_g_idx: bool = (
        False  # whether inputs have a group index of their own (act-order), and the format's "_g_idx" struct reads it
    )
    derived: dict[str, Any]

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "inputs", MappingProxyType(self.inputs))
        object.__setattr__(self, "derived", {})
        mx.eval([array for array in self.inputs.values() if array is not None])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")

    @property
    def rows(self) -> int:
        """Rows of the matrix as it is stored, leading axes folded in."""
        return prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Columns of the matrix as it is stored: the last axis of `shape`."""
        return self.shape[-1]

    @property
    def by_inputs(self) -> bool:
        """Whether it is stored [in, out], as AWQ and GPTQ are."""
        return self.format.family in ("awq", "gptq")

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the packed arrays take."""
        return sum(array.nbytes for array in self.inputs.values() if array is not None)

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes, scales and zero points included; 0 where there are no weights."""
        return 8 * self.nbytes / max(self.size, 1)

    def dequantize(self, dtype: mx.Dtype | None = None) -> mx.array:
        """The weights, unpacked, in `shape`.

        Args:
            dtype: float32 (exact), float16 or bfloat16 (rounded once, to nearest even);
                `self.dtype` by default.
        """
        return backends.dequantize(self, dtypes.checked(dtype or self.dtype))

    def linear(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """x [..., in] through the layer: [..., out] in x's type. See `mlx_dequant.linear`."""
        return products.linear(x, self, bias)

    def take(self, ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
        """Rows `ids` of the [out, in] matrix: [*ids.shape, in]. See `mlx_dequant.take`."""
        return products.take(self, ids, dtype)

    def replace(self, **arrays: mx.array) -> Self:
        """The same weight with other arrays in the place of those that `inputs` names.

        Each has the shape and type of the one it replaces; scales may be of another float type.

        Raises:
            FormatError: a name, shape or type is another one, or g_idx is out of range.
        """
        changed = {name: check.array(name, array) for name, array in arrays.items()}
        for name, array in changed.items():
            old = self.inputs.get(name)
            check.one_of("array", name, tuple(name for name, array in self.inputs.items() if array is not None))
            assert old is not None
            check.shape(name, array, old.shape)
            check.one_of(f"{name}: type", array.dtype, FLOATS if name == "scales" else (old.dtype,))
            if name == "g_idx":
                scales = self.inputs["scales"]
                assert scales is not None
                check.within(name, array, scales.size // self.out_features)
        types = (
            {"dtype": changed["scales"].dtype, "scales_dtype": changed["scales"].dtype} if "scales" in changed else {}
        )
        return self.copy(**types, inputs={**self.inputs, **changed})

    def copy(self, **values: Any) -> Self:
        """For this package: the same weight with other attributes, which nothing checks."""
        copy = object.__new__(type(self))
        copy._set(**{**vars(self), **values})
        return copy

    def sort_by_group(self) -> SortedByGroup | None:
        """For the backends: this weight sorted by group, kept with it; None where it is sorted or cannot be."""
        if self.has_g_idx and "in order" not in self.derived:
            self.derived["in order"] = sort_by_group(self)
        return self.derived.get("in order")

    def __repr__(self) -> str:
        size = f"{self.bits_per_weight:.3g} bits a weight"
        return f"{type(self).__name__}({self.format.title}, shape={self.shape}, {size})"
