"""mlx-dequant called from torch, by the functions that vLLM calls: beside the backend alone, what crossing costs."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import torch

import mlx_dequant as mxd
from mlx_dequant.bridges import mps_dequant
from mlx_dequant.bridges.doctor import device as torch_device

from ...diagnostics.bounds import EXACT, rounded_weights, rounds_weights
from ..cases import Case
from ..data import Data
from . import Provider, Ready
from .torch_plain import plus_one, synchronised, tensors, to_torch


class Bridge:
    """`awq_dequant_matmul`, `gptq_dequant_matmul`, `gguf_dequant_on_mps`."""

    name = "mlx-dequant from torch"

    def __init__(self, device: str):
        self.device = device

    def prepare(self, case: Case, data: Data) -> Ready | None:
        form, dtype = data.weights[0].format, getattr(torch, case.dtype)
        if (form.family, case.case) not in (("gguf", "dequantize"), ("awq", "linear"), ("gptq", "linear")):
            return None
        layers = [SimpleNamespace(**tensors(weight, self.device)) for weight in data.weights]
        xs = [to_torch(x, self.device) for x in data.xs]
        config = SimpleNamespace(group_size=128, bits=form.bits)
        if form.family == "gptq":
            for layer in layers:  # the bridge lets no carry go: hand over zero points as they are
                layer.qzeros = layer.qzeros + plus_one(form.bits)

        def call(i: int) -> torch.Tensor:
            layer = layers[i % len(layers)]
            if form.family == "gguf":
                return mps_dequant.gguf_dequant_on_mps(layer.blocks, form.ggml_type, *case.shape, dtype)
            x = xs[i % len(xs)]
            if form.family == "awq":
                return mps_dequant.awq_dequant_matmul(x, layer, None, config)
            return mps_dequant.gptq_dequant_matmul(x, layer, None, config, use_v2_format=True)

        def numpy(result: torch.Tensor) -> np.ndarray:
            return result.float().cpu().numpy()

        kind = getattr(mx, case.dtype)
        allowance = rounded_weights(kind) if rounds_weights(mxd.current_backend(), case.M) else EXACT
        return Ready(call, synchronised(self.device), numpy, allowance)


def found() -> list[Provider]:
    return [Bridge(torch_device())]
