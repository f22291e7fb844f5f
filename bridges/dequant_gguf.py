"""The module that vLLM imports as `dequant_gguf`: dequantizes GGUF blocks of every type."""

from __future__ import annotations

import torch

from . import arguments
from .operators import operator

GGUF = operator("gguf", "dequantize")


def dequantize_gguf(W: torch.Tensor, quant_type: int, m: int, n: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weights of a GGUF tensor.

    Args:
        W: uint8 of any shape, the file's bytes: m rows of n weights in blocks.
        quant_type: GGUF's number of the type.
        m, n: shape of the result.
        dtype: float16 (also when None), bfloat16 or float32.

    Returns:
        [m, n] in `dtype`, on W's device, in its own memory.

    Raises:
        FormatError: the type is unknown, or W does not hold m * n weights of it.
    """
    arguments.together(W=W)
    if dtype is not None:
        arguments.float_name("dtype", dtype)
    numbers = {"quant_type": quant_type, "m": m, "n": n}
    return GGUF(W, *(arguments.integer(name, number) for name, number in numbers.items()), dtype)
