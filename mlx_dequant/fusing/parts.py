"""What a module consists of, and a copy of it on other arrays: for calls that MLX traces once and replays.

Modules that are alike share a trace, which takes their arrays as arguments. A module's attributes, layers and arrays
may change, so each call looks at them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backends.gpu.operands import operands_of
from ..kept import Numbers
from ..ops.replay import operands_from
from ..weights.fused import joint, shared_by

MOST_ROWS = 16  # of x in a call that is replayed


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
        calls: makes the `__call__` of both.
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


def packed_layers(module: nn.Module, packed: type[nn.Module]) -> int:
    """How many layers of the class `packed` a module has."""
    return sum(isinstance(each, packed) for _, each in module.named_modules())


_kinds = Numbers()


class Parts:
    """What a module consists of. Does not keep the module.

    Args:
        packed: the class of layers whose weights stay quantized.
        few: whether x has at most `MOST_ROWS` rows: then layers may share a product.

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
        self._inner: list[nn.Module] = []
        # The part of a name in each of these dicts.
        self._dicts: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._parts: list[Any] = []
        self._attributes: list[dict[str, Any]] = []
        self._add(module)
        self.kind = _kinds.of(self._key)
        self._sizes = list(map(len, self._inner))
        self._before = list(map(dict, self._attributes))

    def hold(self, module: nn.Module) -> bool:
        """Whether the module still consists of them."""
        return (
            len(module) == len(self._own)
            and all(map(is_, module.values(), self._own))
            and all(map(is_, map(dict.get, self._dicts, self._names), self._parts))
            and list(map(len, self._inner)) == self._sizes
            and self._attributes == self._before
        )

    def _add(self, module: nn.Module) -> None:
        self._key += (type(module), _state(module))
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
        weight, bias = layer.weight, layer.get("bias")
        whole = joint(weight) if self._few or weight.matrix.layout == "KN" else weight
        operands = operands_of(whole.matrix)
        self._key += (type(layer), operands.kind, whole is weight, bias is None)
        if whole is weight or not any(whole is part for part in self._parts):
            self.weights.update(range(len(self.arrays), len(self.arrays) + len(operands.arrays)))
            self.arrays += operands.arrays
        self._keep(vars(layer), "_weight", weight)
        self._keep(layer, "bias", bias)
        if whole is not weight:
            self._keep(vars(shared_by(weight)), "joint", whole)
        if bias is not None:
            self.arrays.append(bias)

    def _keep(self, place: dict[str, Any], name: str, part: Any) -> None:
        self._dicts.append(place)
        self._names.append(name)
        self._parts.append(part)


_found: dict[tuple[int, bool], Parts] = {}  # by the id of a module that lives, and whether for few rows of x


def found(module: Any, few: bool = True) -> Parts | None:
    """A module's parts, if it still consists of those that were found before."""
    parts = _found.get((id(module), few))
    return parts if parts and parts.hold(module) else None


def found_again(module: Any, packed: type[nn.Module], few: bool = True) -> Parts:
    """A module's parts, kept for `found`."""
    key = id(module), few
    if key not in _found:
        weakref.finalize(module, _found.pop, key, None).atexit = False
    parts = _found[key] = Parts(module, packed, few)
    return parts


# By class: names of parts, and attributes.
_states: dict[type, list[tuple[tuple[str, ...], dict[str, Any]]]] = {}


def _state(module: nn.Module) -> int:
    """A number that modules of a class share whose parts have the same names and whose attributes are equal."""
    state = (tuple(module), vars(module))
    known = _states.setdefault(type(module), [])
    if state not in known:
        known.append((state[0], dict(state[1])))
    return known.index(state)


def _copy(module: Any, others: dict[int, mx.array]) -> Any:
    """A module with other arrays, and with its class's own call. Its packed layers keep their weights."""
    kind: Any = getattr(type(module), "replayed_class", type(module))
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    for name, part in module.items():
        other = _copy(part, others) if isinstance(part, nn.Module) else others.get(id(part), part)
        dict.__setitem__(made, name, other)
    return made
