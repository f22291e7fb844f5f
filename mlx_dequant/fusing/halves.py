"""The two traces of a decoder layer: what it computes before its attention, and after.

Keys and values grow with each token, so attention is no part of a trace. All else is a function of x, of x's place in
the text and of what attention gives, whatever the layer's code does. To find it, the code runs with a cache that notes
what it is given, and with another function in the place of mlx-lm's attention.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import itemgetter
from types import FunctionType
from typing import Any, NamedTuple

import mlx.core as mx

from ..backends.gpu.queue import LIMIT, queued
from ..ops import replay
from ..ops.replay import Untraceable
from ..renamed import with_globals
from . import parts

ATTENTION = "scaled_dot_product_attention"  # mlx-lm's function, by the name that layers call
MOST_BYTES = 2 * LIMIT  # of matrices that are dequantized for a layer

Arrays = Sequence[mx.array]


class _Reached(Exception):
    """The code before attention has ended: the scale of scores; queries, keys, values and sinks."""


_KEYS, _VALUES = object(), object()  # of all tokens: no trace knows them


class _Cache:
    """The cache of a layer that is traced.

    Args:
        offset: how many tokens it has.
        mask: that the layer was called with.
        attended: what attention gives; None to end the layer's code there.
    """

    def __init__(self, offset: mx.array, mask: Any, attended: mx.array | None = None):
        self._offset, self._mask, self._attended = offset, mask, attended
        self._new: Arrays = ()
        self._is_over = False

    @property
    def offset(self) -> mx.array:
        if self._new:
            raise Untraceable("it asks for the cache's length after the cache has grown")
        return self._offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[object, object]:
        if self._new:
            raise Untraceable("it gives the cache keys twice")
        self._new = keys, values
        return _KEYS, _VALUES

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise Untraceable("it asks for the cache's class")

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(f"it asks for the cache's {name}")

    def attend(self, queries: mx.array, keys: Any, values: Any, scale: float, mask: Any, sinks: Any) -> mx.array:
        if keys is not _KEYS or values is not _VALUES or mask is not self._mask:
            raise Untraceable("it changes the mask, or what the cache gives")
        if self._attended is None:
            raise _Reached(scale, [queries, *self._new, *([] if sinks is None else [sinks])])
        if self._is_over:
            raise Untraceable("it attends twice")
        self._is_over = True
        return self._attended


class _Mask:
    """In the place of a mask that is an array. A layer may hand it on; more of it than this is not known.

    Attributes:
        dtype, ndim: the mask's.
    """

    def __init__(self, mask: mx.array):
        self.dtype, self.ndim = mask.dtype, mask.ndim

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return mx.array

    def __bool__(self) -> bool:
        raise Untraceable("it asks whether the mask is true")

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(f"it asks for the mask's {name}")


def _attend(
    queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
) -> mx.array:
    """In the place of mlx-lm's attention."""
    if type(cache) is not _Cache:
        raise Untraceable("it attends to something else than the cache")
    return cache.attend(queries, keys, values, scale, mask, sinks)


class Halves(NamedTuple):
    """A layer's two traces, and the attention between them.

    Attributes:
        before, after: the traces.
        arrays_before, arrays_after: choose what each reads from the layer's arrays.
        attention: mlx-lm's.
        scale: of its scores.
    """

    before: replay.Traced
    arrays_before: Callable[[Arrays], Arrays]
    after: replay.Traced
    arrays_after: Callable[[Arrays], Arrays]
    attention: Callable[..., mx.array]
    scale: float

    def __call__(self, arrays: Arrays, x: mx.array, offset: mx.array, mask: Any, cache: Any) -> mx.array:
        """The layer's result.

        Args:
            arrays: of the layer.
            x: [batch, positions, width].
            offset: how many tokens the cache has, int32, one or one for each text.
            mask: as for the layer.
            cache: gets new keys and values.
        """
        queries, keys, values, *sinks = self.before(*self.arrays_before(arrays), x, offset)
        keys, values = cache.update_and_fetch(keys, values)
        y = self.attention(queries, keys, values, cache, self.scale, mask, *sinks)
        return self.after(*self.arrays_after(arrays), x, offset, y)


def attends(kind: type) -> bool:
    """Whether a class of modules calls mlx-lm's attention by its name."""
    return bool(_attending(kind))


@cache
def _attending(kind: type) -> dict[str, FunctionType]:
    """The functions of a class that call mlx-lm's attention, by name."""
    stock = getattr(sys.modules.get("mlx_lm.models.base"), ATTENTION, None)
    found = {name: getattr(kind, name, None) for name in dir(kind)}
    return {
        name: each
        for name, each in found.items()
        if stock and isinstance(each, FunctionType)
        if ATTENTION in each.__code__.co_names and each.__globals__.get(ATTENTION) is stock
    }


@cache
def _noted(kind: type) -> type:
    """The class in the place of one whose attention is noted; itself if it calls none."""
    functions = {name: with_globals(each, {ATTENTION: _attend}) for name, each in _attending(kind).items()}
    return type(kind.__name__, (kind,), functions) if functions else kind


def kind_of(mask: Any) -> Any:
    """What a trace knows of a mask: its name, or the number of its axes and its type."""
    return (mask.ndim, str(mask.dtype)) if isinstance(mask, mx.array) else mask


class _Code:
    """A layer's code, which is run on copies of the layer that this thread calls (`parts.now`).

    Attributes:
        scale: of the scores, once `before` has run.
    """

    scale = 1.0

    def before(self, places: Sequence[int] | None, mask: Any, *given: mx.array) -> list[mx.array]:
        """Queries, keys, values and sinks, from the arrays of these places, x and the cache's length."""
        *arrays, x, offset = given
        try:
            self._run(places, arrays, x, mask, _Cache(offset, mask))
        except _Reached as reached:
            self.scale, found = reached.args
            return found
        raise Untraceable("it does not attend")

    def after(self, places: Sequence[int] | None, mask: Any, *given: mx.array) -> mx.array:
        """The layer's result, from the arrays of these places, x, the cache's length and what attention gives."""
        *arrays, x, offset, y = given
        return self._run(places, arrays, x, mask, _Cache(offset, mask, y))

    def _run(self, places: Sequence[int] | None, arrays: Arrays, x: mx.array, mask: Any, cache: _Cache) -> mx.array:
        with parts.copied(arrays, places) as layer:
            for _, each in layer.named_modules():
                each.__class__ = _noted(type(each))
            return layer(x, mask, cache)


Half = tuple[Callable[..., Any], Arrays]  # a method of `_Code`, and what it takes after the layer's arrays


def traced(held: parts.Parts, x: mx.array, offset: mx.array, mask: Any) -> Halves:
    """The halves of the layer that this thread calls.

    Args:
        held: what the layer consists of.
        x, offset, mask: as for `Halves`.

    Raises:
        Untraceable: the layer has none.
    """
    code = _Code()
    some = _Mask(mask) if isinstance(mask, mx.array) else mask
    queries, _, values, *_ = code.before(None, some, *held.arrays, x, offset)
    y = mx.zeros((*queries.shape[:-1], values.shape[-1]), queries.dtype)
    both: list[Half] = [(code.before, (x, offset)), (code.after, (x, offset, y))]
    uses = _used(held, some, both)
    traces, choices, dense_bytes = [], [], 0
    for places, (half, given) in zip(uses, both, strict=True):
        choices.append(_chooser(places))
        # The second runs all of the layer's code, and so counts the products of both.
        made, dense_bytes = replay.compiled(partial(half, places, some), *choices[-1](held.arrays), *given)
        traces.append(made)
    if dense_bytes > MOST_BYTES:
        raise Untraceable(f"its matrices are dequantized, and {dense_bytes} bytes are too many at a time")
    if dense_bytes:
        traces[1] = partial(queued, dense_bytes, traces[1])
    attention = getattr(sys.modules["mlx_lm.models.base"], ATTENTION)
    return Halves(traces[0], choices[0], traces[1], choices[1], attention, code.scale)


def _used(held: parts.Parts, mask: Any, both: Sequence[Half]) -> list[list[int]]:
    """The places of the arrays that each half reads.

    Raises:
        Untraceable: a weight is read by both.
    """
    first, second = (_read(half, mask, held.arrays, *given) for half, given in both)
    if any(place in held.weights or held.arrays[place].ndim > 1 for place in {*first} & {*second}):
        raise Untraceable("it uses a product from before its attention also after it")
    return [first, second]


def _read(half: Callable[..., Any], mask: Any, arrays: Arrays, *others: mx.array) -> list[int]:
    """Places of the arrays on which a half's outputs depend."""
    nodes: list[dict[str, Any]] = []
    mx.export_function(nodes.append, partial(half, None, mask), *arrays, *others)
    names = [name for name, *_ in nodes[0]["inputs"]]
    used = {name for node in nodes if node["type"] == "primitive" for name, *_ in node["inputs"]}
    used |= {name for node in nodes if node["type"] == "outputs" for name, *_ in node["outputs"]}
    return [place for place, name in enumerate(names[: len(arrays)]) if name in used]


def _chooser(places: Sequence[int]) -> Callable[[Arrays], Arrays]:
    one: Any = itemgetter(*places)
    return one if len(places) > 1 else lambda arrays: [arrays[place] for place in places]
