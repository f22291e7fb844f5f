"""Tensors that cross between torch and MLX: the bridge, MLX's own conversion, torch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlx_dequant.bridges.torch import to_mlx, to_torch

from ...bridges.doctor import device as torch_device
from ...diagnostics.compare import as_float32
from ..cases import Case
from ..data import Data
from . import Provider, Ready
from .ours import wait
from .torch_plain import synchronised


@dataclass(frozen=True)
class Crossing:
    """One way in and one way out; None where it has no such way."""

    name: str
    device: str
    into: Callable[[Any], mx.array] | None
    out: Callable[[mx.array, str], Any] | None

    def prepare(self, case: Case, data: Data) -> Ready | None:
        tensor = data.tensor
        if case.case == "to_mlx" and self.into is not None:
            into = self.into
            tensors = [tensor + 0 for _ in range(4)]
            return Ready(lambda i: into(tensors[i % 4]), wait, as_float32)
        if case.case == "to_torch" and self.out is not None:
            out = self.out
            arrays = [mx.array(tensor.cpu().view(torch.int16).numpy()).view(mx.float16) for _ in range(4)]
            mx.eval(arrays)
            device = str(tensor.device.type)
            return Ready(lambda i: out(arrays[i % 4], device), synchronised(device), _numpy)
        return None


def _numpy(result: torch.Tensor) -> np.ndarray:
    return result.float().cpu().numpy()


def _from_dlpack(array: mx.array, device: str) -> torch.Tensor:
    return torch.from_dlpack(array).to(device)


def found() -> list[Provider]:
    device = torch_device()
    ways: list[Provider] = [
        Crossing("mlx-dequant bridge", device, to_mlx, to_torch),
        # MLX imports no CUDA tensor.
        Crossing("mx.array, from_dlpack", device, None if device == "cuda" else mx.array, _from_dlpack),
    ]
    if device != "mps":
        ways.append(Crossing("through NumPy", device, lambda t: mx.array(t.cpu().numpy()), _through_numpy))
    return ways


def _through_numpy(array: mx.array, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)
