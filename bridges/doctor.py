"""Checks of the bridge on this machine's devices. `mlx-dequant doctor` runs them if torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import torch

from ..diagnostics import bounds, compare, sample_weights
from ..registry import formats
from ..tuning import EXACT_ROWS
from . import mps_dequant, targets
from .nn import packed_linear
from .torch import count_synchronisations, to_mlx, to_torch

COUNT = 1 << 16


def device() -> str:
    """The torch device to check on this machine: "mps", "cuda" or "cpu"."""
    if torch.backends.mps.is_available():
        return "mps"
    return "cuda" if torch.cuda.is_available() else "cpu"


def checks(on: str | None = None) -> list[tuple[str, bool, str]]:
    """For torch tensors on `on`: what was checked, whether it holds, and what was seen."""
    where = on or device()
    results: list[tuple[str, bool, str]] = []
    for check, devices in CHECKS.items():
        if where not in devices:
            continue
        try:
            seen = check(where)
            results.append((check.__doc__ or "", not seen, seen or f"on {where}"))
        except Exception as error:  # The report goes on.
            results.append((check.__doc__ or "", False, f"{type(error).__name__}: {error}"))
    return results


def _values(where: str) -> torch.Tensor:
    return torch.arange(COUNT, dtype=torch.float32).to(where)


def crosses(where: str) -> str:
    """Queued work is seen by the other side, every time"""
    for turn in range(50):
        tensor = _values(where)
        for _ in range(10):
            tensor = tensor + 1
        array = to_mlx(tensor) * 2
        if not torch.equal(to_torch(array, where).cpu(), (torch.arange(COUNT) + 10) * 2.0):
            return f"stale numbers in turn {turn}"
    return ""


def shares_in(where: str) -> str:
    """MLX reads MPS tensors in place (torch 2.12 and later)"""
    tensor = _values(where)
    array = to_mlx(tensor, copy=False)
    tensor += 1
    torch.mps.synchronize()
    return "" if array[0].item() == 1 else "a write by torch did not show"


def shares_out(where: str) -> str:
    """Torch reads MLX's arrays in place"""
    array = mx.zeros(COUNT)
    tensor = to_torch(array, where)
    tensor += 1
    if where == "mps":
        torch.mps.synchronize()
    return "" if array[0].item() == 1 else "a write by torch did not show"


def leaves_alone(where: str) -> str:
    """MLX computes nothing in place in a tensor that torch still sees"""
    tensor = _values(where)
    mx.eval(mx.negative(to_mlx(tensor)), mx.abs(to_mlx(tensor) - 1))
    return "" if torch.equal(tensor.cpu(), _values("cpu")) else "the tensor was overwritten"


def multiplies(where: str) -> str:
    """A matmul with a packed layer is right, with one wait each way across the bridge and none without"""
    weight = sample_weights.layer("awq4", 64, 256, group_size=64)
    arrays = {name: array for name, array in weight.arrays.items() if array is not None}
    layer = SimpleNamespace(**{name: to_torch(array, where) for name, array in arrays.items()})
    config = SimpleNamespace(group_size=64, pack_factor=8)
    x = (torch.arange(256) % 7 - 3).half()[None]
    mps_dequant.awq_dequant_matmul(x.to(where), layer, None, config)
    with count_synchronisations() as counts:
        found = mps_dequant.awq_dequant_matmul(x.to(where), layer, None, config)
    bound = bounds.matmul_bound(x.double().numpy(), compare.exact(weight).T.astype(np.float64), mx.float16)
    wrong = compare.within(found.cpu().double().numpy(), *bound)
    waits, expected = (counts.torch, counts.mlx), (int(where == "mps"), 1) if _on_mlx(where) else (0, 0)
    return str(wrong) or ("" if waits == expected else f"waits for torch and MLX: {waits}, expected {expected}")


def _on_mlx(where: str) -> bool:
    return targets.of(torch.empty(0, device=where)).__name__.endswith(".packed")


def runs_shaders(where: str) -> str:
    """Torch runs the shaders of every format itself: the bits of weights, and products within their bound"""
    if _on_mlx(where):
        return "" if targets.chosen() == "bridge" else targets.obstacle()
    for name, form in formats().items():
        weight = sample_weights.layer(name, 64, 256, group_size=64, g_idx="" if form.family == "awq" else "shuffled")
        layer, dense = packed_linear(weight, where), compare.exact(weight)
        if not np.array_equal(layer.dequantize(torch.float32).cpu().numpy(), dense):
            return f"{name}: weights differ"
        for M in (1, 4, 32):
            x = (torch.arange(M * 256) % 7 - 3).half().reshape(M, 256)
            bound = bounds.matmul_bound(x.double().numpy(), dense.T.astype(np.float64), mx.float16, M > EXACT_ROWS)
            wrong = compare.within(layer(x.to(where)).cpu().double().numpy(), *bound)
            if wrong.wrong:
                return f"{name}, {M} rows of x: {wrong}"
    return ""


CHECKS: dict[Callable[[str], str], tuple[str, ...]] = {
    crosses: ("cpu", "cuda", "mps"),
    shares_in: ("mps",),
    shares_out: ("cpu", "mps"),
    leaves_alone: ("cpu", "cuda", "mps"),
    multiplies: ("cpu", "cuda", "mps"),
    runs_shaders: ("mps",),
}
