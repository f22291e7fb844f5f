"""Products that MLX traces once and replays: nothing is decided again, and no program text is copied.

A trace takes the matrix's arrays as arguments, so that all matrices of a kind share it: a model's layers have a few
kinds, and each prompt of another length is traced once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

import mlx.core as mx

from .. import backends
from ..backends.gpu.operands import LIKE, OPERANDS, Operands, operands_of
from ..backends.gpu.queue import queued
from ..encoded import EncodedMatrix
from ..kept import Kept
from .threads import PerThread

Made = TypeVar("Made")

MAX_TRACES = 1024  # threads come and go, too

How = tuple[Hashable, ...]  # what decides besides the matrix and x
Traced = Callable[..., Any]
Operation = Callable[..., mx.array]  # of a matrix, x and other arrays

# MLX keeps what it has traced by thread, by stream and by the address of the Python function. It erases only the entry
# of the thread that called last, so each thread and stream has a function of its own.
_traces: Kept[Any] = Kept(MAX_TRACES)
_streams: list[mx.Stream] = []  # MLX compares streams and does not number them


class Untraceable(Exception):
    """A function cannot be traced for all layers of a kind."""


class _Latest(NamedTuple):
    """The trace that was called last of those that x, the backend and the stream choose from, and these."""

    traced: Traced
    shape: tuple[int, ...]
    dtype: mx.Dtype
    backend: str | None
    stream: mx.Stream


class _Here(PerThread):
    """What this thread called last, and the trace of several operations that it makes.

    Attributes:
        latest: by what chooses besides x, the backend and the stream.
        others: the trace's arguments by the id of the arrays whose places they take; None outside of such a trace.
        trace: stands for it.
        dense_bytes: bytes of dense matrices that products of such traces make, so far.
        is_transformed: whether products need their rules for MLX's transformations.
    """

    others: dict[int, mx.array] | None = None
    trace: object = None
    dense_bytes = 0
    is_transformed = False

    def __init__(self) -> None:
        super().__init__()
        self.latest: Kept[_Latest] = Kept(MAX_TRACES)


_here = _Here()


def replayed(matrix: EncodedMatrix, how: How, x: mx.array, *others: mx.array) -> mx.array | None:
    """The product, if one like it was traced for a matrix of this kind and this matrix has its operands; else None."""
    operands: Operands | None = matrix.cache.get(OPERANDS)
    if operands is None or _here.others is not None:
        return None
    traced = known((operands.kind, how), x)
    return None if traced is None else traced(*operands.arrays, x, *others)


def known(what: Hashable, x: mx.array) -> Traced | None:
    """What was traced for x, the backend and the stream in use, if it was; the latest of this thread is found sooner.

    Args:
        what: chooses besides these.
    """
    latest = _here.latest.get(what)
    if latest is not None:
        traced, shape, dtype, backend, stream = latest
        if (
            x.shape == shape
            and x.dtype == dtype
            and backends.chosen() == backend
            and mx.default_stream(mx.default_device()) == stream
        ):
            return traced
    traced = _traces.get(_key(what, x))
    if traced is not None:
        now = mx.default_stream(mx.default_device())
        _here.latest.put(what, _Latest(traced, x.shape, x.dtype, backends.chosen(), now))
    return traced


def traced_once(
    matrix: EncodedMatrix,
    how: How,
    operation: Operation,
    with_rules: Operation,
    dense_bytes: int,
    x: mx.array,
    *others: mx.array,
) -> mx.array:
    """The product, traced as a function of the matrix's arrays, x and the others.

    Args:
        operation: the product.
        with_rules: the product inside a transformation of MLX.
        dense_bytes: bytes of a dense matrix that it makes for a while; 0 without.
    """
    if _here.others is not None:
        _here.dense_bytes += dense_bytes
        return (with_rules if _here.is_transformed else operation)(matrix, x, *others)
    operands = operands_of(matrix)

    def traced() -> Traced:
        made = _traced(operands, operation, with_rules, x, *others)
        return partial(queued, dense_bytes, made) if dense_bytes else made

    return _traces.of(_key((operands.kind, how), x), traced)(*operands.arrays, x, *others)


def in_trace(matrix: EncodedMatrix) -> EncodedMatrix:
    """The matrix; inside a function of `compiled`, with the trace's arguments in the place of its arrays.

    Raises:
        Untraceable: the trace has no arguments for it.
    """
    if _here.others is None or LIKE in matrix.cache:
        return matrix
    operands: Operands | None = matrix.cache.get(OPERANDS)
    if operands is None or any(id(array) not in _here.others for array in operands.arrays):
        raise Untraceable("it multiplies by a weight that is not among those that were expected")
    return operands.like([_here.others[id(array)] for array in operands.arrays])


def check_untraced(what: str) -> None:
    """Refuses what a trace would do with one layer's arrays for all layers.

    Raises:
        Untraceable: this thread runs a function of `compiled`.
    """
    if _here.others is not None:
        raise Untraceable(what)


def current() -> object:
    """What stands for the trace whose function this thread runs; None outside of one."""
    return _here.trace


@contextmanager
def operands_from(others: dict[int, mx.array]) -> Generator[None]:
    """Lets `in_trace` put these arrays in the places of those with the ids."""
    before = _here.others, _here.trace
    _here.others, _here.trace = others, object()
    try:
        yield
    finally:
        _here.others, _here.trace = before


def made_once(what: Hashable, x: mx.array, make: Callable[[], Made]) -> Made:
    """What `make` makes for an x of this shape and type, once; `known` finds it, too.

    Args:
        what: chooses besides x.
    """
    return _traces.of(_key(what, x), make)


def compiled(function: Traced, *inputs: mx.array) -> tuple[Traced, int]:
    """A function of several operations, traced for inputs of these shapes and types.

    Args:
        function: makes its products in `operands_from`. MLX may call it again, later.

    Returns:
        The trace, and the bytes of dense matrices that its products make for a while.
    """
    is_transformed = False
    bytes_before = _here.dense_bytes

    def run(*given: mx.array) -> Any:
        before, _here.is_transformed = _here.is_transformed, is_transformed
        try:
            return function(*given)
        finally:
            _here.is_transformed = before

    made: Traced = mx.compile(run)
    made(*(mx.zeros(array.shape, array.dtype) for array in inputs))
    is_transformed = True
    return made, _here.dense_bytes - bytes_before


def _key(what: Hashable, x: mx.array) -> Hashable:
    """What a trace is kept by: also the backend, the thread and the number of the stream in use."""
    stream = mx.default_stream(mx.default_device())
    if stream not in _streams:
        _streams.append(stream)
    return what, x.shape, x.dtype, backends.current_backend(), get_ident(), _streams.index(stream)


def _traced(operands: Operands, operation: Operation, with_rules: Operation, *arrays: mx.array) -> Traced:
    like, count = operands.like, len(operands.arrays)

    def product(*given: mx.array) -> mx.array:
        return operation(like(given[:count]), *given[count:])

    # MLX calls a compiled function's Python code to trace it, and again for each x that another transformation traces.
    traced: Traced = mx.compile(product)
    traced(*operands.arrays, *(mx.zeros(array.shape, array.dtype) for array in arrays))
    operation = with_rules
    return traced
