"""transformers' packed GGUF models on our kernels: the functions that its `GgufKernel` takes from a module.

Since 5.24, transformers keeps a GGUF file's blocks in `GgufLinear`, `GgufEmbedding` and `GgufExperts`
(`transformers/integrations/gguf`), and asks for a kernel of the Hub, "ggml-org/ggml-quantization". `install()` puts
this module in that kernel's place, so that `from_pretrained(..., gguf_file=...)` keeps every type packed without it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..errors import FormatError
from ..registry import formats
from . import views
from .operators import operator

__all__ = ["GEMV_TYPES", "MAX_GEMV_ROWS", "dequantize", "get_rows", "install", "mul_mat_id", "mul_mat_vec", "uninstall"]

LINEAR, EMBEDDING, DEQUANTIZE = (operator("gguf", name) for name in ("linear", "embedding", "dequantize"))
# GGUF's numbers of the types that have a kernel.
GEMV_TYPES = frozenset(form.ggml_type for form in formats().values() if form.family == "gguf" and not form.stored)
MAX_GEMV_ROWS = 8  # transformers unpacks from 9 rows of x on


def mul_mat_vec(weight: torch.Tensor, x: torch.Tensor, ggml_type: int, out_features: int) -> torch.Tensor:
    """x [M, in] by a matrix of blocks uint8 [out, row bytes]: [M, out] in x's type."""
    return LINEAR(x, weight, ggml_type, out_features, x.shape[-1], None)


def dequantize(weight: torch.Tensor, ggml_type: int, rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    """The weights [rows, cols] in `dtype`."""
    return DEQUANTIZE(weight, ggml_type, rows, cols, dtype)


def get_rows(
    weight: torch.Tensor, indices: torch.Tensor, ggml_type: int, cols: int, dtype: torch.dtype
) -> torch.Tensor:
    """Rows of a matrix of blocks: [len(indices), cols] in `dtype`."""
    return EMBEDDING(indices, weight, ggml_type, weight.shape[0], cols, dtype)


def mul_mat_id(
    blocks: torch.Tensor, x: torch.Tensor, ids: torch.Tensor, ggml_type: int, out_features: int
) -> torch.Tensor:
    """Row m of x [M, in] by each of its experts ids[m] [M, k], of blocks uint8 [experts, out, row bytes].

    Which experts are needed is read from the device: one wait.

    Returns:
        [M, k, out] in x's type.
    """
    out = x.new_empty(*ids.shape, out_features)
    matrices = _matrices(blocks)
    for expert in ids.unique().tolist():
        if not 0 <= expert < len(matrices):
            raise FormatError(f"ids: found expert {expert}, expected 0 to {len(matrices) - 1}")
        rows, places = (ids == expert).nonzero(as_tuple=True)
        out[rows, places] = LINEAR(x[rows], matrices[expert], ggml_type, out_features, x.shape[-1], None)
    return out


def _matrices(blocks: torch.Tensor) -> list[torch.Tensor]:
    """The matrices of a stack of experts: views."""
    return views.cut(blocks, None, lambda: [blocks.data[each].data for each in range(len(blocks))])


def install() -> None:
    """Makes transformers' packed GGUF layers run on this module. Call it before the model is loaded.

    Raises:
        ImportError: this transformers has no packed GGUF layers, or others than 5.24's.
    """
    kernels = _kernels()
    kernels._gguf_kernel = kernels.GgufKernel(sys.modules[__name__])


def uninstall() -> None:
    """Lets transformers look for its own kernel again."""
    _kernels()._gguf_kernel = None


def _kernels() -> Any:
    try:
        from transformers.integrations.gguf import kernels
    except ImportError as error:
        raise ImportError(f"found no transformers.integrations.gguf ({error}), expected transformers 5.24") from error
    missing = [name for name in ("GgufKernel", "_gguf_kernel") if not hasattr(kernels, name)]
    if missing:
        raise ImportError(f"transformers.integrations.gguf.kernels: found no {missing[0]}, expected that of 5.24")
    return kernels
