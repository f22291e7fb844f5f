"""Every program of a format against the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .. import backends, dispatch
from ..cli.comparison import differences
from ..registry import Format
from ..weights import QuantizedWeight
from . import samples

FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# How far a rounding to a type moves a number: a part of it, and at least something near zero.
ROUNDING = {mx.float32: (0.0, 2.0**-149), mx.float16: (2.0**-11, 2.0**-25), mx.bfloat16: (2.0**-8, 2.0**-134)}
# Vectors in a product, and their type: enough for every program to run once.
PRODUCTS = (
    *((1, mx.float16), (1, mx.float32), (4, mx.bfloat16), (16, mx.float16)),
    *((17, mx.float16), (40, mx.bfloat16), (100, mx.float16)),
)
# Rows as stored: on a GPU many rows are multiplied by another program than few.
HEIGHTS = (70, 2100)


@dataclass(frozen=True)
class Check:
    """What was compared on one backend, and how it went.

    Attributes:
        results: numbers compared.
        wrong: those that differ from the reference, or in products from float64 by more than
            float32 sums may.
        flushed: subnormal numbers that came as zeros, the documented exception on Metal.
        problem: the error that ended the check, or the first number that is wrong; empty if none.
    """

    format: str
    what: str
    results: int = 0
    wrong: int = 0
    flushed: int = 0
    problem: str = ""


def checks(form: Format) -> Iterator[Check]:
    """All checks of a format on the backend in force."""
    for what, check in _checks(form):
        try:
            # A host program that cannot be compiled warns, and the reference would stand in for it.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", RuntimeWarning)
                results, wrong, flushed, problem = check()
        except Exception as error:  # A report goes on to its end.
            yield Check(form.name, what, wrong=1, problem=f"{type(error).__name__}: {error}".partition("\n")[0])
        else:
            yield Check(form.name, what, results, wrong, flushed, problem)


Found = tuple[int, int, int, str]


def _checks(form: Format) -> Iterator[tuple[str, Callable[[], Found]]]:
    for weight in samples.unpacked(form):
        exact = _reference(weight)
        for name, dtype in FLOATS.items():
            # Scales of other types: each in its own, without every pair's compilation.
            if form.family == "gguf" or weight.scales_dtype in (mx.float16, dtype):
                yield f"dequantize to {name}, {weight}", partial(_unpacked, weight, exact, dtype)
        if weight.scales_dtype == mx.float16 or form.family == "gguf":
            yield f"take, {weight}", partial(_taken, weight, exact)
    for height in HEIGHTS:
        ways = (
            ("", "act-order", "uneven")
            if form.family in ("gptq", "compressed_tensors") and height == HEIGHTS[0]
            else ("",)
        )
        for way in ways:
            weight = samples.multiplied(form, height, way=way)
            exact = _reference(weight).astype(np.float64)
            for vectors, dtype in PRODUCTS:
                for transpose in (False, True):
                    what = (
                        f"{'product' if transpose else 'product without transpose'} of {vectors} in {dtype}, {weight}"
                    )
                    yield what, partial(_multiplied, weight, exact, vectors, dtype, transpose)


def _reference(weight: QuantizedWeight) -> NDArray[np.float32]:
    """[rows, columns] of the weight as it is stored."""
    with backends.use_backend("reference"), np.errstate(all="ignore"):
        return np.array(weight.dequantize(mx.float32)).reshape(weight.rows, weight.columns)


def _float32(array: mx.array) -> NDArray[np.float32]:
    """The same values; a GPU might flush some if it converted them."""
    with mx.stream(mx.cpu):
        return np.array(array.astype(mx.float32))


def _rounded(exact: NDArray[np.float32], dtype: mx.Dtype) -> NDArray[np.float32]:
    return _float32(backends.reference.rounded(exact, dtype))


def _compared(found: mx.array, expected: NDArray[np.float32]) -> Found:
    ours = _float32(found).reshape(expected.shape)
    wrong, flushed = differences(ours, expected, flushes=backends.current_backend() == "metal")
    if not wrong:
        return expected.size, 0, flushed, ""
    differs = (ours.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(expected))
    at = tuple(int(i) for i in np.argwhere(differs)[0])
    return expected.size, wrong, flushed, f"at {at} found {ours[at]:.9g}, expected {expected[at]:.9g}"


def _unpacked(weight: QuantizedWeight, exact: NDArray[np.float32], dtype: mx.Dtype) -> Found:
    found = weight.dequantize(dtype).reshape(exact.shape)
    return _compared(found, _rounded(exact, dtype))


def _taken(weight: QuantizedWeight, exact: NDArray[np.float32]) -> Found:
    dense = exact.T if weight.by_inputs else exact
    ids = np.array([0, len(dense) - 1, -len(dense), -1, len(dense) // 2])
    found = weight.take(mx.array(ids), mx.float16)
    if backends.is_lazy() and not np.isnan(_float32(weight.take(mx.array([len(dense)])))).all():
        return len(ids), 1, 0, "an id out of range did not give NaN"
    return _compared(found, _rounded(np.ascontiguousarray(dense[ids]), mx.float16))


def _multiplied(
    weight: QuantizedWeight, exact: NDArray[np.float64], vectors: int, dtype: mx.Dtype, transpose: bool
) -> Found:
    """Every sum within what float32 in any order allows, and one rounding of it; many vectors round weights too."""
    matrix = exact.T if transpose else exact
    length = len(matrix)
    x = mx.array(np.random.default_rng(2).normal(size=(vectors, length)).astype(np.float32)).astype(dtype)
    value = _float32(x).astype(np.float64)
    found = _float32(backends.product(weight, x, transpose))
    expected, size = value @ matrix, np.abs(value) @ np.abs(matrix)
    part, least = ROUNDING[dtype]
    # The second term: factors, or products of them, that a GPU flushes.
    summed = length * 2.0**-24 / (1 - length * 2.0**-24) * size + length * 2.0**-120
    if backends.is_lazy() and dispatch.way(backends.current_backend(), dtype, vectors) != "packed":
        summed += part * size + least * np.abs(value).sum(axis=1, keepdims=True)
    bound = summed + part * (np.abs(expected) + summed) + least
    error = np.abs(found - expected)
    bad = ~(error <= bound)
    if not bad.any():
        return error.size, 0, 0, ""
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    problem = f"at {at} found {found[at]:.9g}, expected {expected[at]:.9g} within {bound[at]:.2g}"
    return error.size, int(np.count_nonzero(bad)), 0, problem
