"""Layers of a loaded model that compute what lies between products in one node each, on the host.

Layers find these functions by name: `mx.fast.rope`, mlx-lm's `swiglu`. Those of a loaded model get a class of their
own, whose methods are the same code with other functions by these names. Nothing of MLX or mlx-lm is changed, and
other models compute as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from types import FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backends import current_backend, host
from ..backends.host import layers
from ..renamed import with_globals

_NAMES = {"rms_norm", "rope", "scaled_dot_product_attention", "swiglu"}


class _Instead:
    """A module with some other functions."""

    def __init__(self, module: Any, **functions: Any):
        self.__dict__.update(functions, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def use_host_layers(model: nn.Module) -> None:
    """Gives a model's layers the host's functions, where the host is in use and has them."""
    if current_backend() == "host" and host.is_lazy():
        for module in model.modules():
            module.__class__ = _kind(type(module))


@cache
def _kind(stock: type) -> type:
    """The class of layers in the place of `stock`; itself if it calls none of the functions."""
    found = ((name, getattr(stock, name, None)) for name in dir(stock))
    methods = {name: _with_ours(each) for name, each in found if isinstance(each, FunctionType) and _calls(each)}
    if not methods:
        return stock

    def reduce(self: Any, protocol: Any) -> Any:
        """Files name the class that everyone knows."""
        return _empty, (stock,), *super(kind, self).__reduce_ex__(protocol)[2:]

    kind = type(stock.__name__, (stock,), methods | {"__reduce_ex__": reduce, "__module__": stock.__module__})
    return kind


def _empty(stock: Any) -> Any:
    kind: Any = _kind(stock)
    return kind.__new__(kind)


def _calls(function: FunctionType) -> bool:
    return function.__globals__.get("mx") is mx and not _NAMES.isdisjoint(function.__code__.co_names)


def _with_ours(function: FunctionType) -> Any:
    """The same code, for which the names of `_functions` mean ours."""
    stock = function.__globals__
    ours = {name: ours for name, (known, ours) in _functions().items() if stock.get(name) is known}
    return with_globals(function, ours)


@cache
def _functions() -> dict[str, tuple[Any, Any]]:
    """By the names of global variables: MLX's or mlx-lm's, and ours."""
    from mlx_lm.models import activations, base

    ours = {
        "rms_norm": layers.rms_norm,
        "rope": layers.rope,
        "scaled_dot_product_attention": layers.attention,
    }
    fast = _Instead(mx.fast, **{name: _first(each, getattr(mx.fast, name)) for name, each in ours.items()})
    ours_mx, attention, swiglu = _Instead(mx, fast=fast), base.scaled_dot_product_attention, activations.swiglu
    return {
        "mx": (mx, ours_mx),
        "scaled_dot_product_attention": (attention, with_globals(attention, {"mx": ours_mx})),
        "swiglu": (swiglu, _first(layers.swiglu, swiglu)),
    }


def _first(ours: Callable[..., mx.array | None], stock: Any) -> Callable[..., mx.array]:
    """Our function, and MLX's where ours has no answer."""
    known = signature(ours).parameters.keys()

    @wraps(stock)
    def function(*inputs: Any, **named: Any) -> mx.array:
        y = ours(*inputs, **named) if named.keys() <= known and current_backend() == "host" else None
        return stock(*inputs, **named) if y is None else y

    return function
