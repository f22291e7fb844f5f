"""Registers the modules that vLLM imports, and replaces vLLM's own functions on request."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import sys
from types import FunctionType, ModuleType
from typing import Any

from . import dequant_gguf, dequant_int4, mps_dequant

VLLM = "vllm.model_executor.layers.quantization.utils.mps_dequant"
GGUF = "vllm.model_executor.layers.quantization.gguf"
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
# Modules and classes of vLLM, the name of a function, ours and theirs. A reloaded module has new ones.
_patches: list[tuple[Any, str, Any, Any]] = []


def install(patch: bool = False) -> None:
    vllm_module = _to_patch() if patch else sys.modules.get(VLLM)
    for name, module in MODULES.items():
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = module
            _registered.add(name)
    if vllm_module is None:
        return
    _forget_failures(vllm_module)
    if patch:
        for name in FUNCTIONS:
            if hasattr(vllm_module, name):
                _patch(vllm_module, name, getattr(mps_dequant, name))
        _patch_apply()


def _to_patch() -> ModuleType:
    """vLLM's module, with at least one of the functions that can be replaced."""
    try:
        vllm_module = importlib.import_module(VLLM)
    except ImportError as error:
        raise ImportError(f"install(patch=True) found no module {VLLM} ({error}), {ONLY_THERE}") from error
    if not any(hasattr(vllm_module, name) for name in FUNCTIONS):
        raise ImportError(f"install(patch=True) found none of {', '.join(FUNCTIONS)} in {VLLM}, {ONLY_THERE}")
    return vllm_module


def _patch(owner: Any, name: str, ours: Any) -> None:
    theirs = getattr(owner, name)
    if theirs is not ours:
        setattr(owner, name, ours)
        _patches.append((owner, name, ours, theirs))


def _theirs(owner: Any, name: str) -> Any:
    """vLLM's own function, also where ours is in its place."""
    now = getattr(owner, name, None)
    patches = (patch for patch in reversed(_patches) if patch[0] is owner and patch[1] == name and patch[2] is now)
    return next((theirs for *_, theirs in patches), now)


def _patch_apply() -> None:
    """Makes vLLM's GGUF layers multiply packed, but on CUDA, where vLLM has kernels."""
    try:
        method = importlib.import_module(GGUF).GGUFLinearMethod
        apply = method.apply
    except (ImportError, AttributeError):
        return

    def packed_apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        return apply(self, layer, x, bias) if x.is_cuda else mps_dequant.gguf_dequant_matmul(x, layer, bias)

    if _theirs(method, "apply") is apply:
        _patch(method, "apply", packed_apply)


def uninstall() -> None:
    modules = [sys.modules.get(VLLM)]
    while _patches:
        owner, name, ours, theirs = _patches.pop()
        if getattr(owner, name, None) is ours:
            setattr(owner, name, theirs)
        modules.append(owner)
    for module in {id(module): module for module in modules if isinstance(module, ModuleType)}.values():
        _forget_our_modules(module)
    for name in _registered:
        if sys.modules.get(name) is MODULES[name]:
            del sys.modules[name]
    _registered.clear()


def _remembered(vllm_module: ModuleType, getter: str) -> tuple[Any, list[str]]:
    """A getter of vLLM, and the globals that it assigns, which cache the result of its import."""
    function = _theirs(vllm_module, getter)
    plain = getattr(function, "__wrapped__", function)
    if not isinstance(plain, FunctionType):
        return function, []
    return function, [step.argval for step in dis.get_instructions(plain) if step.opname == "STORE_GLOBAL"]


def _forget_failures(vllm_module: ModuleType) -> None:
    """Makes getters that have failed try again.

    Assumes that a getter caches its result in globals that it assigns (the module or None, and flags), or with
    `functools.cache`. A module that a getter has found stays.
    """
    for getter in GETTERS:
        function, names = _remembered(vllm_module, getter)
        if not any(isinstance(getattr(vllm_module, name, None), ModuleType) for name in names):
            _reset(vllm_module, function, names)


def _forget_our_modules(vllm_module: ModuleType) -> None:
    our_modules = list(MODULES.values())
    for getter in GETTERS:
        function, names = _remembered(vllm_module, getter)
        if not names or any(getattr(vllm_module, name, None) in our_modules for name in names):
            _reset(vllm_module, function, names)


def _reset(vllm_module: ModuleType, function: Any, names: list[str]) -> None:
    for name in names:
        # A flag "tried" becomes False again; a module, or False instead of a module, becomes None.
        setattr(vllm_module, name, False if getattr(vllm_module, name, None) is True else None)
    if hasattr(function, "cache_clear"):
        function.cache_clear()
