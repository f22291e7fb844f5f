"""Many rows of bfloat16 on a CPU that has instructions for them: torch multiplies, the host backend dequantizes.

oneDNN's product uses AMX or AVX512-BF16, where the host backend has float32 only. On a CPU without them, torch's
products of bfloat16 are several times slower than those of float32, and those no faster than the host's.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import torch

from ..backends import current_backend
from ..backends.host.dequantize import write_region
from ..backends.host.library import library
from ..encoded import EncodedMatrix, Region

ROWS = 16  # from so many rows of x on
PART = 1 << 22  # weights dequantized at a time: 8 MB, which a third-level cache holds
STEP = 32  # a region begins at such a column


@cache
def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def chosen(x: torch.Tensor) -> bool:
    """Whether torch multiplies x [..., inputs], with weights that are rounded to bfloat16."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.numel() < ROWS * x.shape[-1]:
        return False
    return current_backend() == "host" and has_bfloat16()


def matmul(matrix: EncodedMatrix, x: torch.Tensor, transpose: bool) -> torch.Tensor | None:
    """x [..., columns] Wᵀ for the stored W (`transpose`), or x [..., rows] W; None if no loop can be compiled."""
    run = library(matrix, "dequantize", mx.bfloat16)
    if run is None:
        return None
    flat = x.detach().reshape(-1, x.shape[-1])
    inputs, outputs = (matrix.columns, matrix.rows) if transpose else (matrix.rows, matrix.columns)
    step = max(PART // inputs // STEP, 1) * STEP
    dense = torch.empty(min(step, outputs) * inputs, dtype=torch.bfloat16)
    y = torch.empty((len(flat), outputs), dtype=torch.bfloat16)
    for at in range(0, outputs, step):
        end = min(at + step, outputs)
        region = Region(at, end, 0, inputs) if transpose else Region(0, inputs, at, end)
        write_region(run, matrix, region, dense.data_ptr())
        part = dense[: region.rows * region.columns].view(region.rows, region.columns)
        with torch.autocast("cpu", enabled=False):
            y[:, at:end] = flat @ (part.T if transpose else part)
    return y.reshape(*x.shape[:-1], outputs)
