"""Plain torch arithmetic, as a fallback without kernels dequantizes: eager, and under `torch.compile`.

Group sizes are broadcast, not gathered, and shifts stay on the device: torch at its best.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import torch._inductor.config

import mlx_dequant as mxd

from ...diagnostics.bounds import EXACT, rounded_weights
from ...diagnostics.compare import is_in_out
from ...diagnostics.timing import done
from ..cases import Case
from ..data import Data
from . import Provider, Ready, torch_devices

SHIFTS = torch.tensor([0, 4, 8, 12, 16, 20, 24, 28], dtype=torch.int32)
SHIFTS_OF = {"awq4": torch.tensor([0, 16, 4, 20, 8, 24, 12, 28], dtype=torch.int32)}


def grouped(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[in, out] codes less their group's zero point, times its scale."""
    groups, out_features = scales.shape
    q = codes.view(groups, -1, out_features)
    return ((q - zeros.view(groups, 1, out_features)) * scales.view(groups, 1, out_features)).view(-1, out_features)


def awq_codes(arrays: dict[str, torch.Tensor], shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[in, out] codes and [groups, out] zero points of AWQ tensors."""
    codes = arrays["qweight"].unsqueeze(-1) >> shifts & 15
    zeros = arrays["qzeros"].unsqueeze(-1) >> shifts & 15
    return codes.flatten(1), zeros.flatten(1)


def awq(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[in, out] weights of AWQ tensors."""
    return grouped(*awq_codes(arrays, shifts), arrays["scales"].to(dtype))


def plus_one(bits: int) -> int:
    """A word with 1 in each field, as int32: GPTQ stores zero points less one, and the carry is let go."""
    word = sum(1 << at for at in range(0, 32, bits))
    return word - (word >> 31 << 32)


def gptq_codes(arrays: dict[str, torch.Tensor], shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of GPTQ tensors of 4 bits, zero points stored less one, whole words at a time."""
    codes = arrays["qweight"].unsqueeze(1) >> shifts.view(1, -1, 1) & 15
    zeros = (arrays["qzeros"] + plus_one(4)).unsqueeze(-1) >> shifts & 15
    return codes.flatten(0, 1), zeros.flatten(1)


def gptq(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[in, out] weights of GPTQ tensors of 4 bits."""
    return grouped(*gptq_codes(arrays, shifts), arrays["scales"].to(dtype))


def compressed_tensors(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] weights of compressed-tensors of 4 bits with zero points."""
    scales = arrays["scales"].to(dtype)
    out_features, groups = scales.shape
    codes = (arrays["codes"].unsqueeze(-1) >> shifts & 15).view(out_features, groups, -1)
    zeros = (arrays["zeros"].unsqueeze(1) >> shifts.view(1, -1, 1) & 15).view(out_features, groups, 1)
    return ((codes - zeros) * scales.unsqueeze(-1)).flatten(1)


def q8_0(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] weights of Q8_0 blocks."""
    blocks = arrays["blocks"].unflatten(1, (-1, 34))
    d = blocks[:, :, :2].view(torch.float16).to(dtype)
    return (blocks[:, :, 2:].view(torch.int8) * d).flatten(1)


def q4_0(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] weights of Q4_0 blocks."""
    blocks = arrays["blocks"].unflatten(1, (-1, 18))
    d = blocks[:, :, :2].view(torch.float16).to(dtype)
    codes = torch.cat([blocks[:, :, 2:] & 15, blocks[:, :, 2:] >> 4], 2).view(torch.int8)
    return ((codes - 8) * d).flatten(1)


def q4_k(arrays: dict[str, torch.Tensor], shifts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] weights of Q4_K blocks: scales and offsets of 6 bits, products in float32."""
    blocks = arrays["blocks"].unflatten(1, (-1, 144))
    outer = blocks[:, :, :4].view(torch.float16).float()
    low, middle, high = blocks[:, :, 4:16].unflatten(2, (3, 4)).unbind(2)
    scales = torch.cat([low & 63, (high & 15) | (low >> 6) << 4], 2) * outer[:, :, :1]
    offsets = torch.cat([middle & 63, high >> 4 | (middle >> 6) << 4], 2) * outer[:, :, 1:]
    pairs = blocks[:, :, 16:].unflatten(2, (4, 32))
    codes = torch.stack([pairs & 15, pairs >> 4], 3).flatten(2, 3)
    return (scales.unsqueeze(-1) * codes - offsets.unsqueeze(-1)).to(dtype).flatten(1)


DEQUANTIZE: dict[str, Callable[..., torch.Tensor]] = {
    "awq4": awq, "gptq4": gptq, "ct4": compressed_tensors, "q8_0": q8_0, "q4_0": q4_0, "q4_k": q4_k,
}  # fmt: skip
CODES = {"awq4": awq_codes, "gptq4": gptq_codes}


def to_torch(array: mx.array, device: str) -> torch.Tensor:
    """A copy of MLX's array, on torch's device."""
    if array.dtype == mx.bfloat16:
        words = np.array(array.view(mx.uint16)).view(np.int16)
        return torch.from_numpy(words).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.array(array)).to(device)


def synchronised(device: str) -> Callable[[list[Any]], object]:
    """What waits for the device."""
    if device == "cpu":
        return done
    wait = torch.cuda.synchronize if device == "cuda" else torch.mps.synchronize
    return lambda results: wait()


class TorchPlain:
    """Dequantizes, and multiplies by the result."""

    def __init__(self, device: str, compiled: bool):
        self.device = device
        self.compiled = compiled
        self.name = f"torch {'compile' if compiled else 'eager'} {device}"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.format not in DEQUANTIZE or case.has_g_idx:
            return None
        weights = [tensors(w, self.device) for w in data.weights]
        shifts = SHIFTS_OF.get(case.format, SHIFTS).to(self.device)
        dequantize, dtype, in_out = DEQUANTIZE[case.format], getattr(torch, case.dtype), is_in_out(data.weights[0])
        xs = [to_torch(x, self.device) for x in data.xs]
        slow = self.device == "cpu" and dtype != torch.float32

        def work(arrays: dict[str, torch.Tensor], x: torch.Tensor | None) -> torch.Tensor:
            # The products of a scale and a code are float32's, but for float16, which rounds once anyway.
            dense = dequantize(arrays, shifts, dtype if dtype == torch.float16 else torch.float32).to(dtype)
            if x is None or not in_out:
                return dense if x is None else x @ dense.T
            # On a CPU, 16-bit products are 20 to 80 times faster by a weight that lies as [out, in].
            return x @ (dense.T.contiguous().T if slow else dense)

        # A graph for each case: torch may forget the others.
        if self.compiled:
            torch._dynamo.reset()
        run = torch.compile(work, dynamic=False) if self.compiled else work

        def call(i: int) -> torch.Tensor:
            with torch.inference_mode():
                return run(weights[i % len(weights)], xs[i % len(xs)] if xs else None)

        def numpy(result: torch.Tensor) -> np.ndarray:
            turned = result.T if case.case == "dequantize" and in_out else result
            return turned.float().cpu().numpy()

        allowance = rounded_weights(getattr(mx, case.dtype)) if case.case == "linear" else EXACT
        return Ready(call, synchronised(self.device), numpy, allowance)


def tensors(w: mxd.QuantizedWeight, device: str) -> dict[str, torch.Tensor]:
    """The packed arrays on torch's device."""
    return {name: to_torch(array, device) for name, array in w.arrays.items() if array is not None}


def found() -> list[Provider]:
    # Inductor would take $CXX, which need not have OpenMP.
    if shutil.which("g++") and sys.platform == "linux":
        torch._inductor.config.cpp.cxx = ("g++",)
    return [TorchPlain(device, compiled) for device in torch_devices() for compiled in (False, True)]
