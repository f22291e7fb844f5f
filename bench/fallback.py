"""What torch users have without a kernel: unpack with plain torch operations, then multiply."""

from __future__ import annotations

from typing import Any

import gguf
import torch

AWQ_SHIFTS = torch.tensor([0, 16, 4, 20, 8, 24, 12, 28], dtype=torch.int32)
SHIFTS = torch.arange(0, 32, 4, dtype=torch.int32)


def awq(x: torch.Tensor, layer: Any, group_size: int) -> torch.Tensor:
    """x [..., in] through an AWQ layer."""
    inputs = layer.qweight.shape[0]
    codes = (layer.qweight[:, :, None] >> AWQ_SHIFTS & 15).reshape(inputs, -1)
    zeros = (layer.qzeros[:, :, None] >> AWQ_SHIFTS & 15).reshape(layer.qzeros.shape[0], -1)
    group = torch.arange(inputs) // group_size
    return x @ ((codes - zeros[group]) * layer.scales[group])


def gptq(x: torch.Tensor, layer: Any, group_size: int) -> torch.Tensor:
    """x [..., in] through a GPTQ layer of 4 bits, version 1, without act-order."""
    outputs = layer.qweight.shape[1]
    codes = (layer.qweight[:, None, :] >> SHIFTS[None, :, None] & 15).reshape(-1, outputs)
    zeros = (layer.qzeros[:, :, None] >> SHIFTS & 15).reshape(-1, outputs) + 1
    group = torch.arange(codes.shape[0]) // group_size
    return x @ ((codes - zeros[group]) * layer.scales[group])


def unpacked(W: torch.Tensor, quant_type: int) -> torch.Tensor:
    """GGUF weights by gguf-py, as float16."""
    exact = gguf.quants.dequantize(W.numpy(), gguf.GGMLQuantizationType(quant_type))
    return torch.from_numpy(exact).half()
