"""What a module consists of, and a copy of it on other arrays: for calls that MLX traces once and replays.

Modules that are alike share a trace, which takes their arrays as arguments. A module's attributes, layers and arrays
may change, so each call looks at them.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from itertools import count
from operator import is_
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakSet

import mlx.core as mx
import mlx.nn as nn

from ..backends.gpu.operands import operands_of
from ..kept import Numbers
from ..log import logger
from ..ops.replay import Untraceable, operands_from
from ..weights.fused import MOST_ROWS, multiplying, shared_by

# Attributes that number a model's layers. Where no layer's code reads them, layers that differ in them are alike.
NUMBERING = ("layer_idx", "layer_id", "layer_index")


class _Now(threading.local):
    """What this thread calls, for MLX to trace.

    Attributes:
        called: the module and its arrays.
    """

    called: tuple[Any, list[mx.array]] | None = None


now = _Now()


@contextmanager
def copied(given: Sequence[mx.array], places: Sequence[int] | None = None) -> Generator[Any]:
    """A copy of the module that this thread calls, on a trace's arguments in the place of its arrays.

    Args:
        given: the arguments.
        places: of the arrays for which they stand; all if None.
    """
    assert now.called is not None
    module, arrays = now.called
    others = {id(array): array for array in arrays}
    places = range(len(arrays)) if places is None else places
    others |= {id(arrays[place]): other for place, other in zip(places, given, strict=True)}
    with operands_from(others):
        yield _copy(module, others)


Calls = Callable[[Any, type[nn.Module]], Callable[..., Any]]


@cache
def replaying(stock: Any, packed: type[nn.Module], calls: Calls) -> Any:
    """A class in the place of `stock`.

    Args:
        packed: the class of layers whose weights stay quantized.
        calls: makes the new class's `__call__`, given `stock` and `packed`.
    """

    def reduce(self: Any) -> tuple[Any, ...]:
        return _unpickled, (stock, packed, calls, dict(vars(self)), dict(self))

    members = {"__call__": calls(stock, packed), "__reduce__": reduce, "replayed_class": stock}
    return type(stock.__name__, (stock,), members | {"__module__": stock.__module__})


def _unpickled(
    stock: Any, packed: type[nn.Module], calls: Calls, attributes: dict[str, Any], parts: dict[str, Any]
) -> Any:
    kind = replaying(stock, packed, calls)
    module = kind.__new__(kind)
    vars(module).update(attributes)
    dict.update(module, parts)
    return module


def is_few(x: mx.array) -> bool:
    """Whether x has at most `MOST_ROWS` rows: then layers may share a product."""
    return x.size <= MOST_ROWS * x.shape[-1]


def packed_layers(module: nn.Module, packed: type[nn.Module]) -> int:
    """How many layers of the class `packed` a module has."""
    return sum(isinstance(each, packed) for _, each in module.named_modules())


_kinds = Numbers()


class Parts:
    """What a module consists of. Does not keep the module.

    Args:
        packed: the class of layers whose weights stay quantized.
        few: as `is_few` says of x.

    Attributes:
        kind: a number that modules share whose calls have the same trace, for an x of the same shape and type.
        arrays: that the trace takes as arguments.
        weights: the places of those among them that belong to quantized weights.
        complete: whether all parts are arrays and modules.
    """

    def __init__(self, module: nn.Module, packed: type[nn.Module], few: bool):
        self._few = few
        self._key: tuple[Any, ...] = ()
        self.arrays: list[mx.array] = []
        self.weights: set[int] = set()
        self.complete = True
        self._packed = packed
        self._own = list(module.values())
        self._inner: list[nn.Module] = []  # packed layers are no such modules
        self._layers: list[nn.Module] = []
        # The part of a name in each of these dicts.
        self._dicts: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._parts: list[Any] = []
        self._attributes: list[dict[str, Any]] = []
        self._states: list[_State] = []
        kinds = {type(each) for _, each in module.named_modules()}
        self._ignored = {name for name in NUMBERING if not any(map(partial(_reads, name), kinds))}
        self._add(module)
        first: dict[int, int] = {}  # arrays that stand in several places
        self._key += tuple(first.setdefault(id(array), place) for place, array in enumerate(self.arrays))
        self.kind = _kinds.of(self._key)
        self._sizes = list(map(len, self._inner))
        self._modules = self._inner + self._layers
        self._types = list(map(type, self._modules))
        self._before = list(map(dict, self._attributes))

    def hold(self, module: nn.Module) -> bool:
        """Whether the module still consists of them."""
        return (
            len(module) == len(self._own)
            and all(map(is_, module.values(), self._own))
            and all(map(is_, map(dict.get, self._dicts, self._names), self._parts))
            and list(map(len, self._inner)) == self._sizes
            and list(map(type, self._modules)) == self._types
            and self._attributes == self._before
        )

    def _add(self, module: nn.Module) -> None:
        state = _state(module, self._ignored)
        self._states.append(state)
        self._key += (type(module), state.number)
        self._attributes.append(vars(module))
        for part in module.values():
            if isinstance(part, self._packed):
                self._add_layer(part)
            elif isinstance(part, mx.array):
                self.arrays.append(part)
            elif isinstance(part, nn.Module):
                self._inner.append(part)
                for name, inner in part.items():
                    self._keep(part, name, inner)
                self._add(part)
            else:
                self.complete = False

    def _add_layer(self, layer: Any) -> None:
        self._layers.append(layer)
        weight, bias = layer.weight, layer.get("bias")
        used = multiplying(weight, self._few)
        operands = operands_of(used.matrix)
        self._key += (type(layer), operands.kind, used is weight, bias is None)
        if used is weight or not any(used is part for part in self._parts):
            self.weights.update(range(len(self.arrays), len(self.arrays) + len(operands.arrays)))
            self.arrays += operands.arrays
        self._keep(vars(layer), "_weight", weight)
        self._keep(layer, "bias", bias)
        if used is not weight:
            self._keep(vars(shared_by(weight)), "joint", used)
        if bias is not None:
            self.arrays.append(bias)

    def _keep(self, place: dict[str, Any], name: str, part: Any) -> None:
        self._dicts.append(place)
        self._names.append(name)
        self._parts.append(part)


UNTRACED: Any = object()  # in the place of a trace, for modules that have none


def traced(stock: Any, held: Parts, make: Callable[[], Any]) -> Any:
    """What `make` makes of a module's parts; `UNTRACED` where it cannot, and then the log says why.

    Errors of any kind count: it is the module's code that runs, on other arrays than it expects.

    Args:
        stock: the module's class.
    """
    try:
        if not held.complete:
            raise Untraceable("it has parts that are neither arrays nor modules")
        return make()
    except Exception as error:
        kind = "" if isinstance(error, Untraceable) else f"{type(error).__name__}: "
        _say(stock.__name__, f"{kind}{error}")
        return UNTRACED


@lru_cache(maxsize=256)  # once each
def _say(name: str, why: str) -> None:
    logger.info("%s is called as it is, and not replayed: %s", name, why)


_known: dict[tuple[int, bool], Parts] = {}  # by the id of a module that lives, and whether for few rows of x


def kept(module: Any, few: bool = True) -> Parts | None:
    """A module's parts, if it still consists of those that `look` found."""
    parts = _known.get((id(module), few))
    return parts if parts and parts.hold(module) else None


def look(module: Any, packed: type[nn.Module], few: bool = True) -> Parts:
    """A module's parts. `kept` gives them again."""
    key = id(module), few
    if key not in _known:
        weakref.finalize(module, _known.pop, key, None).atexit = False
    parts = _known[key] = Parts(module, packed, few)
    return parts


class _State:
    """The names of a module's parts, and its attributes."""

    def __init__(self, names: tuple[str, ...], attributes: dict[str, Any]):
        self.names, self.attributes = names, attributes
        self.number = next(_numbers)


_numbers = count()
_states: dict[type, WeakSet[_State]] = {}  # by class of module; parts keep them


def _state(module: nn.Module, ignored: set[str]) -> _State:
    """The state that modules of a class share whose parts have the same names and whose attributes are equal."""
    names, attributes = tuple(module), {name: each for name, each in vars(module).items() if name not in ignored}
    known = _states.setdefault(type(module), WeakSet())
    for state in known:
        if state.names == names and state.attributes == attributes:
            return state
    state = _State(names, attributes)
    known.add(state)
    return state


@cache
def _reads(name: str, kind: type) -> bool:
    """Whether a class's methods, but for what makes an instance, or its file's functions read an attribute."""
    found: list[Any] = []
    for base in kind.__mro__:
        found += [each for key, each in vars(base).items() if key != "__init__"]
        found += vars(sys.modules[base.__module__]).values()
    functions = (getattr(each, "fget", None) or getattr(each, "__func__", each) for each in found)
    return any(name in names for each in functions if isinstance(each, FunctionType) for names in _names(each.__code__))


def _names(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The names in a code, and in those inside it."""
    yield code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _copy(module: Any, others: dict[int, mx.array]) -> Any:
    """A module with other arrays, and with its class's own call. Its packed layers keep their weights."""
    kind: Any = getattr(type(module), "replayed_class", type(module))
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    for name, part in module.items():
        other = _copy(part, others) if isinstance(part, nn.Module) else others.get(id(part), part)
        dict.__setitem__(made, name, other)
    return made
