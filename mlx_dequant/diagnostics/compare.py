"""Exact comparisons: a weight's true values, and whether results have the right bits or keep within a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..backends import arrays, use_backend
from ..weights import QuantizedWeight

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        values: numbers compared.
        wrong: those that are not as expected.
        flushed: zeros in the place of subnormals, where those are allowed.
        problem: the first number that is wrong; empty if none is.
    """

    values: int
    wrong: int = 0
    flushed: int = 0
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.wrong:,} of {self.values:,} values differ, {self.problem}" if self.wrong else ""


def same_bits(found: NDArray[Any], expected: NDArray[Any], flushes: bool = False) -> Comparison:
    """Compares the bits of float32 arrays; any NaN equals any other.

    Args:
        flushes: allow a zero in the place of a subnormal, as Metal gives.
    """
    if found.shape != expected.shape:
        return _other_shape(found, expected)
    wrong = np.ascontiguousarray(found).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    if not wrong.any():
        return Comparison(expected.size)
    wrong &= ~(np.isnan(found) & np.isnan(expected))
    flushed = wrong & (found == 0) & (expected != 0) & (np.abs(expected) < np.finfo(np.float32).tiny) & flushes
    return _first(found, expected, wrong & ~flushed, int(np.count_nonzero(flushed)))


def within(found: NDArray[Any], expected: NDArray[Any], bound: NDArray[Any] | float) -> Comparison:
    """Compares numbers with expected ones that they may be off by `bound`."""
    if found.shape != expected.shape:
        return _other_shape(found, expected)
    error = np.abs(found - expected)
    result = _first(found, expected, ~(error <= bound))
    if not result.wrong:
        return result
    excess = float(np.nan_to_num(error / bound, nan=np.inf).max())
    problem = f"{result.problem}; the largest error is {excess:.3g} times the bound"
    return Comparison(result.values, result.wrong, problem=problem)


def _first(found: NDArray[Any], expected: NDArray[Any], wrong: NDArray[np.bool_], flushed: int = 0) -> Comparison:
    if not wrong.any():
        return Comparison(wrong.size, flushed=flushed)
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    problem = f"at {at} found {found[at]:.9g}, expected {expected[at]:.9g}"
    return Comparison(wrong.size, int(np.count_nonzero(wrong)), flushed, problem)


def _other_shape(found: NDArray[Any], expected: NDArray[Any]) -> Comparison:
    return Comparison(expected.size, expected.size, problem=f"found shape {found.shape}, expected {expected.shape}")


def as_float32(array: mx.array) -> F32:
    """The same values; converted on the CPU, for a GPU may flush some."""
    with mx.stream(mx.cpu):
        return np.array(array.astype(mx.float32))


def rounded(values: F32, dtype: mx.Dtype) -> F32:
    """Values rounded once to `dtype`, to nearest even."""
    return as_float32(arrays.rounded(values, dtype))


def as_stored(weight: QuantizedWeight) -> F32:
    """[rows, columns] of the matrix as it is stored, by the reference."""
    with use_backend("reference"), np.errstate(all="ignore"):
        return np.array(weight.dequantize(mx.float32)).reshape(-1, weight.shape[-1])


def is_in_out(weight: QuantizedWeight) -> bool:
    """Whether the matrix is stored [in, out], as AWQ and GPTQ have it."""
    return weight.matrix.layout == "KN"


def exact(weight: QuantizedWeight) -> F32:
    """[out, in] of the weight, by the reference."""
    stored = as_stored(weight)
    return stored.T if is_in_out(weight) else stored
