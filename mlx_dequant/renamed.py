"""A function's code with other global variables: how a layer's class computes with functions of ours by known names."""

from __future__ import annotations

from functools import wraps
from types import FunctionType
from typing import Any


def with_globals(function: Any, names: dict[str, Any]) -> Any:
    """The same function, for which these names of global variables mean something else."""
    made = FunctionType(function.__code__, function.__globals__ | names, closure=function.__closure__)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return wraps(function)(made)
