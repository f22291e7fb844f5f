"""What `mlx-dequant doctor` examines: every kernel of a format against the reference, and a first look at speed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .. import backends
from ..registry import FAMILIES, Format
from ..weights import QuantizedWeight
from . import sample_weights
from .bounds import EXACT, INT8, Allowance, matmul_bound, rounded_weights, rounds_weights
from .compare import F32, Comparison, as_float32, as_stored, is_in_out, rounded, same_bits, within
from .timing import Call, interleaved

FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Rows of x in a matmul, and their type: enough for every kernel to run once.
MATMULS = (
    *((1, mx.float16), (1, mx.float32), (4, mx.bfloat16), (16, mx.float16)),
    *((17, mx.float16), (40, mx.bfloat16), (100, mx.float16)),
)
# Rows as stored: on a GPU many rows are multiplied by another kernel than few.
HEIGHTS = (70, 2100)
WIDTH = 320
TIMED = ("q4_k", "q8_0", "iq3_s", "awq4", "gptq4", "ct4")
SIZE = 4096  # of the layers timed


@dataclass(frozen=True)
class Check:
    """What was compared on one backend, and how it went.

    Attributes:
        results: numbers compared.
        wrong: those that differ from the reference; in matmuls, by more than float32 sums may from float64.
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
    """All checks of a format on the backend in use."""
    for what, check in _checks(form):
        try:
            # A host loop that cannot be compiled warns, and the reference would stand in for it.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", RuntimeWarning)
                found = check()
        except Exception as error:  # A report goes on to its end.
            yield Check(form.name, what, wrong=1, problem=f"{type(error).__name__}: {error}".partition("\n")[0])
        else:
            yield Check(form.name, what, found.values, found.wrong, found.flushed, found.problem)


def _checks(form: Format) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    for weight in sample_weights.for_dequantize(form.name):
        exact, scales = as_stored(weight), weight.arrays.get("scales")
        for name, dtype in FLOATS.items():
            # Scales of other types: each in its own, without every pair's compilation.
            if scales is None or scales.dtype in (mx.float16, dtype):
                yield f"dequantize to {name}, {weight}", partial(_dequantized, weight, exact, dtype)
        if scales is None or scales.dtype == mx.float16:
            yield f"take, {weight}", partial(_taken, weight, exact)
    for height in HEIGHTS:
        act_order = "g_idx" in dict(FAMILIES[form.family].arrays) and height == HEIGHTS[0]
        for g_idx in ("", "shuffled", "uneven") if act_order else ("",):
            weight = _stored(form, height, g_idx)
            exact = as_stored(weight).astype(np.float64)
            for M, dtype in MATMULS:
                for transpose in (True, False):
                    kind = "matmul" if transpose else "matmul without transpose"
                    check = partial(_multiplied, weight, exact, M, dtype, transpose)
                    yield f"{kind} of {M} in {dtype}, {weight}", check
    if backends.current_backend() == "host" and "int8_codes" in form.traits:
        weight = _stored(form, HEIGHTS[0], "")
        yield f"matmul of 1 in int8, {weight}", partial(_rounded_to_int8, weight, as_stored(weight).astype(np.float64))


def _stored(form: Format, rows: int, g_idx: str) -> QuantizedWeight:
    """A weight whose stored matrix has that many rows, or a few more."""
    sizes = (WIDTH, rows) if FAMILIES[form.family].layout == "KN" else (rows, WIDTH)
    return sample_weights.layer(form.name, *sizes, seed=1, group_size=64, g_idx=g_idx)


def _compared(found: mx.array, expected: F32) -> Comparison:
    return same_bits(as_float32(found).reshape(expected.shape), expected, backends.current_backend() == "metal")


def _dequantized(weight: QuantizedWeight, exact: F32, dtype: mx.Dtype) -> Comparison:
    return _compared(weight.dequantize(dtype), rounded(exact, dtype))


def _taken(weight: QuantizedWeight, exact: F32) -> Comparison:
    dense = exact.T if is_in_out(weight) else exact
    ids = np.array([0, len(dense) - 1, -len(dense), -1, len(dense) // 2])
    found = weight.take(mx.array(ids), mx.float16)
    if backends.on_gpu() and not np.isnan(as_float32(weight.take(mx.array([len(dense)])))).all():
        return Comparison(len(ids), 1, problem="an id out of range did not give NaN")
    return _compared(found, rounded(np.ascontiguousarray(dense[ids]), mx.float16))


def _multiplied(
    weight: QuantizedWeight,
    exact: NDArray[np.float64],
    M: int,
    dtype: mx.Dtype,
    transpose: bool,
    allowance: Allowance = EXACT,
) -> Comparison:
    dense = exact.T if transpose else exact
    x = mx.array(np.random.default_rng(2).normal(size=(M, len(dense))).astype(np.float32)).astype(dtype)
    rounds = rounds_weights(backends.current_backend(), M, weight.matrix)
    if rounds and dtype == mx.float32:
        allowance = rounded_weights(dtype)
    expected, bound = matmul_bound(as_float32(x).astype(np.float64), dense, dtype, rounds, allowance)
    return within(as_float32(backends.matmul(weight.matrix, x, transpose)), expected, bound)


def _rounded_to_int8(weight: QuantizedWeight, exact: NDArray[np.float64]) -> Comparison:
    with backends.use_backend("host", "int8"):
        return _multiplied(weight, exact, 1, mx.float32, True, INT8)


@dataclass(frozen=True)
class Times:
    """Microseconds of one call in float16, the best of some rounds: a first impression, no benchmark.

    Attributes:
        size: of the weight, both ways.
        dequantize: to dequantize the weight.
        linear: to multiply one row of x.
    """

    format: str
    size: int
    dequantize: float
    linear: float


def times(names: Collection[str]) -> list[Times]:
    """Of some formats out of `names` on the backend in use."""
    return [_times(name) for name in TIMED if name in names]


def _times(name: str) -> Times:
    weight, x = sample_weights.layer(name, SIZE, SIZE), mx.ones((1, SIZE), mx.float16)
    calls = {"dequantize": lambda i: weight.dequantize(mx.float16), "linear": lambda i: weight.linear(x)}
    # On a GPU a single call is mostly overhead.
    chain = 10 if backends.on_gpu() else 1
    taken = interleaved({what: Call(call, mx.eval, chain) for what, call in calls.items()}, rounds=5)
    return Times(name, SIZE, *(1e6 * min(taken[what].seconds) for what in calls))
