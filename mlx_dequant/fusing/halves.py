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
from ..kept import Kept
from ..ops import replay
from ..renamed import with_globals
from . import parts

ATTENTION = "scaled_dot_product_attention"  # mlx-lm's function, by the name that layers call
MOST_BYTES = 2 * LIMIT  # of matrices that are dequantized for a layer

Arrays = Sequence[mx.array]


class Whole(Exception):
    """A layer's code cannot be cut at its attention."""


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
            raise Whole("it asks for the cache's length after the cache has grown")
        return self._offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[object, object]:
        if self._new:
            raise Whole("it gives the cache keys twice")
        self._new = keys, values
        return _KEYS, _VALUES

    def attend(self, queries: mx.array, keys: Any, values: Any, scale: float, mask: Any, sinks: Any) -> mx.array:
        if keys is not _KEYS or values is not _VALUES or mask is not self._mask:
            raise Whole("it changes the mask, or what the cache gives")
        if self._attended is None:
            raise _Reached(scale, [queries, *self._new, *([] if sinks is None else [sinks])])
        if self._is_over:
            raise Whole("it attends twice")
        self._is_over = True
        return self._attended


def _attend(
    queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
) -> mx.array:
    """In the place of mlx-lm's attention."""
    if not isinstance(cache, _Cache):
        raise Whole("it attends to something else than the cache")
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

    def __call__(self, arrays: Arrays, x: mx.array, place: mx.array, mask: Any, cache: Any) -> mx.array:
        """The layer's result.

        Args:
            arrays: of the layer.
            x: [batch, positions, width].
            place: how many tokens the cache has, int32, one or one for each text.
            mask: as for the layer.
            cache: gets new keys and values.
        """
        queries, keys, values, *sinks = self.before(*self.arrays_before(arrays), x, place)
        keys, values = cache.update_and_fetch(keys, values)
        y = self.attention(queries, keys, values, cache, self.scale, mask, *sinks)
        return self.after(*self.arrays_after(arrays), x, place, y)


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


def traced(stock: Any, held: parts.Parts, x: mx.array, place: mx.array, mask: Any) -> Halves:
    """The halves of the layer that this thread calls.

    Args:
        stock: the layer's class.
        held: what the layer consists of.
        x, place, mask: as for `Halves`.

    Raises:
        Whole: the layer has none.
    """
    if not held.complete:
        raise Whole("it has parts that are neither arrays nor modules")
    some = mx.zeros([1] * mask.ndim, mask.dtype) if isinstance(mask, mx.array) else mask  # nothing may depend on it
    noted: dict[str, Any] = {}

    def run(places: Any, arrays: Arrays, x: mx.array, mask: Any, cache: _Cache) -> mx.array:
        with parts.copied(arrays, places) as layer:
            for _, each in layer.named_modules():
                each.__class__ = _noted(type(each))
            return stock.__call__(layer, x, mask, cache)

    def before(places: Any, mask: Any, *given: mx.array) -> list[mx.array]:
        *arrays, x, place = given
        try:
            run(places, arrays, x, mask, _Cache(place, mask))
        except _Reached as reached:
            noted["scale"], found = reached.args
            return found
        raise Whole("it does not attend")

    def after(places: Any, mask: Any, *given: mx.array) -> mx.array:
        *arrays, x, place, y = given
        return run(places, arrays, x, mask, _Cache(place, mask, y))

    def used() -> list[list[int]]:
        found = [_read(each, some, held.arrays, *given) for each, given in inputs]
        if any(place in held.weights or held.arrays[place].ndim > 1 for place in set(found[0]) & set(found[1])):
            raise Whole("it uses a product from before its attention also after it")
        return found

    queries, _, values, *_ = before(None, some, *held.arrays, x, place)
    y = mx.zeros((*queries.shape[:-1], values.shape[-1]), queries.dtype)
    inputs = [(before, (x, place)), (after, (x, place, y))]
    traces, choices, dense_bytes = [], [], 0
    for places, (each, given) in zip(_uses.of((held.kind, kind_of(mask)), used), inputs, strict=True):
        choices.append(_chooser(places))
        # The second runs all of the layer's code, and so counts the products of both.
        made, dense_bytes = replay.compiled(partial(each, places, some), *choices[-1](held.arrays), *given)
        traces.append(made)
    if dense_bytes > MOST_BYTES:
        raise Whole(f"its matrices are dequantized, and {dense_bytes} bytes are too many at a time")
    if dense_bytes:
        traces[1] = partial(queued, dense_bytes, traces[1])
    attention = getattr(sys.modules["mlx_lm.models.base"], ATTENTION)
    return Halves(traces[0], choices[0], traces[1], choices[1], attention, noted["scale"])


_uses: Kept[list[list[int]]] = Kept(replay.MAX_TRACES)  # the places of the arrays that each half reads, by kind


def _read(half: Callable[..., Any], mask: Any, arrays: Arrays, *others: mx.array) -> list[int]:
    """Places of the arrays on which a half's outputs depend.

    Raises:
        Whole: they depend on the mask.
    """
    nodes: list[dict[str, Any]] = []
    masks = [mask] if isinstance(mask, mx.array) else []

    def function(*given: mx.array) -> Any:
        return half(None, given[0] if masks else mask, *given[len(masks) :])

    mx.export_function(nodes.append, function, *masks, *arrays, *others)
    given = [name for name, *_ in nodes[0]["inputs"]]
    used = {name for node in nodes if node["type"] == "primitive" for name, *_ in node["inputs"]}
    used |= {name for node in nodes if node["type"] == "outputs" for name, *_ in node["outputs"]}
    if masks and given[0] in used:
        raise Whole("it reads the mask")
    return [place for place, name in enumerate(given[len(masks) :][: len(arrays)]) if name in used]


def _chooser(places: Sequence[int]) -> Callable[[Arrays], Arrays]:
    one: Any = itemgetter(*places)
    return one if len(places) > 1 else lambda arrays: [arrays[place] for place in places]
