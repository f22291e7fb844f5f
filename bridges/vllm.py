"""The modules under the names that vLLM imports, and its own functions replaced on request."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import sys
from types import FunctionType, ModuleType
from typing import Any

from . import dequant_gguf, dequant_int4, mps_dequant

VLLM = "vllm.model_executor.layers.quantization.utils.mps_dequant"
MODULES = {"dequant_int4": dequant_int4, "dequant_gguf": dequant_gguf}
GETTERS = ("_get_metal_dequant", "_get_metal_dequant_gguf")
FUNCTIONS = (
    *GETTERS,
    "_pytorch_dequant_awq",
    "_pytorch_dequant_gptq",
    "_pytorch_dequant_gguf",
    "awq_dequant_matmul",
    "gptq_dequant_matmul",
    "gguf_dequant_on_mps",
)

ONLY_THERE = (
    "expected that of vLLM pull request 36523, which no released vLLM has. "
    "Without vLLM, call the functions of mlx_dequant.bridges.mps_dequant yourself"
)

_registered: set[str] = set()
_replaced: dict[str, Any] = {}


def install(patch: bool = False) -> None:
    theirs = _to_patch() if patch else sys.modules.get(VLLM)
    for name, module in MODULES.items():
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = module
            _registered.add(name)
    if theirs is None:
        return
    _forget_failures(theirs)
    if patch and not _replaced:
        _replaced.update({name: getattr(theirs, name) for name in FUNCTIONS if hasattr(theirs, name)})
        for name in _replaced:
            setattr(theirs, name, getattr(mps_dequant, name))


def _to_patch() -> ModuleType:
    """vLLM's module, with at least one of the functions that can be replaced."""
    try:
        theirs = importlib.import_module(VLLM)
    except ImportError as error:
        raise ImportError(f"install(patch=True) found no module {VLLM} ({error}), {ONLY_THERE}") from error
    if not any(hasattr(theirs, name) for name in FUNCTIONS):
        raise ImportError(f"install(patch=True) found none of {', '.join(FUNCTIONS)} in {VLLM}, {ONLY_THERE}")
    return theirs


def uninstall() -> None:
    theirs = sys.modules.get(VLLM)
    if theirs is not None:
        for name, function in _replaced.items():
            if getattr(theirs, name, None) is getattr(mps_dequant, name):
                setattr(theirs, name, function)
        _forget_ours(theirs)
    _replaced.clear()
    for name in _registered:
        if sys.modules.get(name) is MODULES[name]:
            del sys.modules[name]
    _registered.clear()


def _remembered(theirs: ModuleType, getter: str) -> tuple[Any, list[str]]:
    """A getter of vLLM's, and the globals that it assigns: what it remembers of its import."""
    function = _replaced.get(getter, getattr(theirs, getter, None))
    plain = getattr(function, "__wrapped__", function)
    if not isinstance(plain, FunctionType):
        return function, []
    return function, [step.argval for step in dis.get_instructions(plain) if step.opname == "STORE_GLOBAL"]


def _forget_failures(theirs: ModuleType) -> None:
    """Makes a getter that has already failed try again.

    Assumed: it remembers in globals that it assigns itself (the module or None, and flags), or in
    `functools.cache`. A module that it did find stays.
    """
    for getter in GETTERS:
        function, names = _remembered(theirs, getter)
        if not any(isinstance(getattr(theirs, name, None), ModuleType) for name in names):
            _reset(theirs, function, names)


def _forget_ours(theirs: ModuleType) -> None:
    ours = list(MODULES.values())
    for getter in GETTERS:
        function, names = _remembered(theirs, getter)
        if not names or any(getattr(theirs, name, None) in ours for name in names):
            _reset(theirs, function, names)


def _reset(theirs: ModuleType, function: Any, names: list[str]) -> None:
    for name in names:
        # A flag "tried" goes back to False; a module, or a False in place of one, to None.
        setattr(theirs, name, False if getattr(theirs, name, None) is True else None)
    if hasattr(function, "cache_clear"):
        function.cache_clear()
