"""Torch's dense product of the dequantized weight, in x's type: more bytes to read, and none to decode."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import torch
from torch.nn.functional import linear

from ...diagnostics.bounds import rounded_weights
from ..cases import Case
from ..data import Data
from . import Provider, Ready, torch_devices
from .dense import dequantized
from .torch_plain import synchronised, to_torch


class TorchDense:
    """`torch.nn.functional.linear`."""

    def __init__(self, device: str):
        self.device = device
        self.name = f"torch dense {device}"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        weights = [to_torch(w, self.device) for w in dequantized(case, data)]
        xs = [to_torch(x, self.device) for x in data.xs]

        def call(i: int) -> torch.Tensor:
            return linear(xs[i % len(xs)], weights[i % len(weights)])

        def numpy(result: torch.Tensor) -> np.ndarray:
            return result.float().cpu().numpy()

        return Ready(call, synchronised(self.device), numpy, rounded_weights(getattr(mx, case.dtype)))


def found() -> list[Provider]:
    return [TorchDense(device) for device in torch_devices()]
