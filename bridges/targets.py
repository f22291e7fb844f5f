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
    """`shaders` for a layer on MPS, if they are chosen and nothing is in their way, otherwise `packed`."""
    if isinstance(tensor, torch.Tensor) and tensor.device.type == "mps" and chosen() == "shaders" and not obstacle():
        from . import shaders

        return shaders
    from . import packed  # and with it MLX, only where it is needed

    return packed


@cache
def chosen() -> str:
    """ "shaders" or "bridge", as the environment says; it is read once."""
    name = os.environ.get(VARIABLE, "shaders")
    if name not in ("shaders", "bridge"):
        raise ValueError(f"{VARIABLE}: found {name!r}, expected shaders or bridge")
    return name


@cache
def obstacle() -> str:
    """Why torch cannot run the shaders here; "" if it can."""
    if not hasattr(torch._C, "_mps_compileShader") or not hasattr(torch.mps, "compile_shader"):
        return f"torch {torch.__version__} has no torch.mps.compile_shader here"
    if os.environ.get(FAST_MATH, "0") not in ("", "0"):
        return f"{FAST_MATH} is set: torch would compile shaders with fast math, whose results are not exact"
    return ""


def adopt(family: str, operands: tuple[Any, ...], weight: Any) -> None:
    """Lets MLX multiply a layer by the weight whose memory its tensors share. The shaders need no weight of MLX."""
    target = of(operands[0])
    if target.__name__.endswith(".packed"):
        getattr(target, family)(*operands, made=weight)
