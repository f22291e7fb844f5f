"""Who runs a layer of torch tensors: the shaders in torch's own queue, or MLX across the bridge.

Both modules have the same functions: `awq`, `gptq`, `compressed_tensors` and `gguf` make a weight of a layer's
tensors; `product`, `input_gradient`, `dense` and `rows` use it.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType
from typing import Any

import torch

VARIABLE = "MLX_DEQUANT_TORCH"
FAST_MATH = "PYTORCH_MPS_FAST_MATH"


def of(tensor: Any) -> ModuleType:
    """The module for a layer with this tensor: `shaders` on MPS where `obstacle` finds none, otherwise `packed`."""
    if isinstance(tensor, torch.Tensor) and tensor.device.type == "mps" and not obstacle():
        from . import shaders

        return shaders
    from . import packed  # and with it MLX, only where it is needed

    return packed


@cache
def obstacle() -> str:
    """Why torch cannot run the shaders here; "" if it can. The environment is read once."""
    chosen = os.environ.get(VARIABLE, "shaders")
    if chosen not in ("shaders", "bridge"):
        raise ValueError(f"{VARIABLE}: found {chosen!r}, expected shaders or bridge")
    if chosen == "bridge":
        return f"{VARIABLE} is bridge"
    if not hasattr(torch._C, "_mps_compileShader") or not hasattr(torch.mps, "compile_shader"):
        return f"torch {torch.__version__} has no torch.mps.compile_shader here"
    if os.environ.get(FAST_MATH, "0") not in ("", "0"):
        return f"{FAST_MATH} is set: torch would compile shaders with fast math, whose results are not exact"
    return ""


def dense(family: str, operands: tuple[Any, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
    """The stored matrix of a layer's tensors and numbers, dequantized."""
    target = of(operands[0])
    return target.dense(getattr(target, family)(*operands), operands[0], dtype)


def adopt(family: str, operands: tuple[Any, ...], weight: Any) -> None:
    """Lets MLX multiply a layer by the weight whose memory its tensors share. The shaders need no weight of MLX."""
    target = of(operands[0])
    if target.__name__.endswith(".packed"):
        getattr(target, family)(*operands, made=weight)
