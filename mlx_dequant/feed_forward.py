"""Feed-forward modules that MLX traces once for all layers that are alike, and then replays.

Such a module is a function of x alone, so that its products, its activation and its choice of experts can be one
trace. For a few rows of x a GPU waits for the CPU that builds them (bench/NOTES.md).
"""

from __future__ import annotations

import inspect
import threading
import weakref
from functools import cache
from math import prod
from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import backends
from .backends.gpu.operands import operands_of
from .kept import Numbers
from .ops import replay
from .weights.fused import joint, shared_by

# Names that mlx-lm's models give to feed-forward modules.
NAMES = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp")

MOST_ROWS = 16  # of x


class _Now(threading.local):
    """The module that this thread calls, for MLX to trace, and its arrays."""

    called: tuple[Any, list[mx.array]] | None = None


_now = _Now()


def replay_feed_forward(model: nn.Module, packed: type[nn.Module]) -> None:
    """Gives a model's feed-forward modules a class whose calls are replayed on a GPU, in place. All else stays.

    Without a GPU in use nothing is changed.

    They are replayed in evaluation mode (`model.eval()`): training may draw random numbers. A module's attributes,
    layers and arrays may change: each call looks at them. What its Python code does besides computing a result is done
    when it is traced, and not again.

    Args:
        packed: the class of layers whose weights stay quantized.
    """
    if not backends.on_gpu():
        return
    for _, module in model.named_modules():
        for name in NAMES:
            part = module.get(name)
            if isinstance(part, nn.Module) and _takes_x_alone(part) and _packed_layers(part, packed) > 1:
                part.__class__ = _replaying(type(part), packed)


def _takes_x_alone(module: Any) -> bool:
    return not hasattr(module, "replayed_class") and len(inspect.signature(module).parameters) == 1


def _packed_layers(module: nn.Module, packed: type[nn.Module]) -> int:
    return sum(isinstance(each, packed) for _, each in module.named_modules())


@cache
def _replaying(kind: Any, packed: type[nn.Module]) -> Any:
    """The class of modules of that kind whose calls are replayed."""

    def call(self: Any, x: mx.array) -> mx.array:
        parts = _found.get(id(self))
        held = parts if parts and parts.hold(self) else None
        made = replay.known(held.kind, x) if held else None
        # What is known was traced in evaluation mode, for few rows, on a GPU.
        if made is None and (self.training or prod(x.shape[:-1]) > MOST_ROWS or not backends.on_gpu()):
            return kind.__call__(self, x)
        held = held or _found_again(self, packed)
        if not held.complete:
            return kind.__call__(self, x)
        before, _now.called = _now.called, (self, held.arrays)
        try:
            made = made or replay.traced_together(held.kind, traced, held.arrays, x)
            return made(*held.arrays, x)
        finally:
            _now.called = before

    def traced(*given: mx.array) -> mx.array:
        assert _now.called is not None
        module, arrays = _now.called
        others = {id(array): other for array, other in zip(arrays, given[:-1], strict=True)}
        with replay.operands_from(others):
            return kind.__call__(_copy(module, others), given[-1])

    def reduce(self: Any) -> tuple[Any, ...]:
        return _unpickled, (kind, packed, dict(vars(self)), dict(self))

    members = {"__call__": call, "__reduce__": reduce, "__module__": kind.__module__, "replayed_class": kind}
    return type(kind.__name__, (kind,), members)


def _unpickled(kind: Any, packed: type[nn.Module], attributes: dict[str, Any], parts: dict[str, Any]) -> Any:
    kind = _replaying(kind, packed)
    module = kind.__new__(kind)
    vars(module).update(attributes)
    dict.update(module, parts)
    return module


_kinds = Numbers()


class _Parts:
    """What a module consists of. Does not keep the module.

    Attributes:
        kind: a number that modules share whose calls have the same trace, for an x of the same shape and type.
        arrays: that the trace takes as arguments.
        complete: whether all parts are arrays and modules.
    """

    def __init__(self, module: nn.Module, packed: type[nn.Module]):
        self._key: tuple[Any, ...] = ()
        self.arrays: list[mx.array] = []
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
        whole = joint(weight)
        operands = operands_of(whole.matrix)
        self._key += (type(layer), operands.kind, whole is weight, bias is None)
        if whole is weight or not any(whole is part for part in self._parts):
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


_found: dict[int, _Parts] = {}  # by the id of a module that lives


def _found_again(module: Any, packed: type[nn.Module]) -> _Parts:
    if id(module) not in _found:
        weakref.finalize(module, _found.pop, id(module), None).atexit = False
    parts = _found[id(module)] = _Parts(module, packed)
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
