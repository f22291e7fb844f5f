"""mlx-dequant called from torch, by its layers: beside the backend alone, what crossing costs."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import torch

import mlx_dequant as mxd
from mlx_dequant.bridges import dense_products
from mlx_dequant.bridges.doctor import device as torch_device
from mlx_dequant.bridges.nn import packed_linear

from ...diagnostics.bounds import EXACT, rounded_weights, rounds_weights
from ..cases import Case
from ..data import Data
from . import Provider, Ready
from .torch_plain import synchronised, to_torch


class Bridge:
    """`mlx_dequant.bridges.nn`: `AWQLinear`, `GPTQLinear`, `CompressedTensorsLinear`, `GGUFLinear`."""

    name = "mlx-dequant from torch"

    def __init__(self, device: str):
        self.device = device

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.case not in ("dequantize", "linear"):
            return None
        layers = [packed_linear(weight, self.device) for weight in data.weights]
        xs = [to_torch(x, self.device) for x in data.xs]
        dtype = getattr(torch, case.dtype)

        def call(i: int) -> torch.Tensor:
            layer = layers[i % len(layers)]
            return layer(xs[i % len(xs)]) if xs else layer.dequantize(dtype)

        def numpy(result: torch.Tensor) -> np.ndarray:
            return result.float().cpu().numpy()

        rounds = rounds_weights(mxd.current_backend(), case.M) or bool(xs and dense_products.chosen(xs[0]))
        return Ready(
            call, synchronised(self.device), numpy, rounded_weights(getattr(mx, case.dtype)) if rounds else EXACT
        )


def found() -> list[Provider]:
    return [Bridge(torch_device())]
