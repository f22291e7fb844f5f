"""GPTQModel's torch kernel, where it is installed: `TorchQuantLinear`, `TorchLinear` in later releases."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from ...diagnostics.bounds import EXACT, rounded_weights
from ..cases import Case
from ..data import Data
from . import Absent, Provider, Ready, torch_devices


class GPTQModel:
    """A module of theirs, with our tensors in its buffers."""

    def __init__(self, device: str, module: Any):
        self.device = device
        self.name = f"GPTQModel torch {device}"
        self.module = module

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if data.weights[0].format.family != "gptq" or case.dtype == "float32" or case.has_g_idx:
            return None
        import torch

        from .torch_plain import synchronised, to_torch

        layers = [self._layer(w) for w in data.weights]
        xs = [to_torch(x, self.device) for x in data.xs]

        def call(i: int) -> Any:
            layer = layers[i % len(layers)]
            with torch.inference_mode():
                return layer(xs[i % len(xs)]) if xs else layer.dequantize_weight().to(getattr(torch, case.dtype))

        def numpy(result: Any) -> np.ndarray:
            turned = result.T if case.case == "dequantize" else result
            return turned.float().cpu().numpy()

        allowance = rounded_weights(getattr(mx, case.dtype)) if case.case == "linear" else EXACT
        return Ready(call, synchronised(self.device), numpy, allowance)

    def _layer(self, w: mxd.QuantizedWeight) -> Any:
        import torch

        from .torch_plain import plus_one, tensors

        size = 128  # of every sample layer
        layer = self.module(
            bits=w.format.bits, group_size=size, sym=False, desc_act=False,
            in_features=w.in_features, out_features=w.out_features, bias=False, pack_dtype=torch.int32,
        )  # fmt: skip
        # Its kernel reads zero points as they are: ours less one, the carry let go, as its loader has it.
        arrays = tensors(w, "cpu")
        arrays["qzeros"] = arrays["qzeros"] + plus_one(w.format.bits)
        arrays["g_idx"] = torch.arange(w.in_features, dtype=torch.int32) // size
        for name, tensor in arrays.items():
            setattr(layer, name, tensor)
        layer = layer.to(self.device).eval()
        layer.post_init()
        return layer


def found() -> list[Provider]:
    try:
        from gptqmodel.nn_modules.qlinear import torch as theirs
    except ImportError:
        raise Absent("GPTQModel is not installed (pip install gptqmodel)") from None
    module = getattr(theirs, "TorchLinear", None) or getattr(theirs, "TorchQuantLinear", None)
    if module is None:
        raise Absent("this release of GPTQModel has no torch kernel by a name known here")
    return [GPTQModel(device, module) for device in torch_devices()]
