"""Checks of the bridge on this machine's devices. `mlx-dequant doctor` runs them if torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import mlx.core as mx
import torch

from . import mps_dequant
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
    """A product with a quantized layer equals the CPU's, with one wait each way"""
    words = torch.arange(256 * 8, dtype=torch.int32).reshape(256, 8) * 0x1F35_0B7
    layer = SimpleNamespace(qweight=words, qzeros=words[:4], scales=torch.full((4, 64), 0.01, dtype=torch.float16))
    config = SimpleNamespace(group_size=64, pack_factor=8)
    x = (torch.arange(256) % 7 - 3).half()[None]
    dense = mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales.float(), layer.qzeros, 64)
    exact = x.double() @ dense.double()
    there = SimpleNamespace(**{name: tensor.to(where) for name, tensor in vars(layer).items()})
    mps_dequant.awq_dequant_matmul(x.to(where), there, None, config)
    with count_synchronisations() as counts:
        result = mps_dequant.awq_dequant_matmul(x.to(where), there, None, config)
    if not torch.allclose(result.cpu().double(), exact, rtol=2e-3, atol=2e-3):
        return f"off by {(result.cpu().double() - exact).abs().max().item():.3g}"
    waits = (counts.torch, counts.mlx)
    return "" if waits == (int(where == "mps"), 1) else f"waits for torch and MLX: {waits}"


CHECKS: dict[Callable[[str], str], tuple[str, ...]] = {
    crosses: ("cpu", "cuda", "mps"),
    shares_in: ("mps",),
    shares_out: ("cpu", "mps"),
    leaves_alone: ("cpu", "cuda", "mps"),
    multiplies: ("cpu", "cuda", "mps"),
}
