"""Swap vLLM's torch fallback for MLX: a layer as vLLM holds it, multiplied both ways, compared and timed.

    pip install 'mlx-dequant[torch,cpu]'      # on a Mac: 'mlx-dequant[torch]'
    python examples/torch_swap.py

Inside a program that uses vLLM it is one line, before the model runs:

    import mlx_dequant.bridges; mlx_dequant.bridges.install(patch=True)
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import torch

from mlx_dequant.bridges import mps_dequant

IN, OUT, GROUP = 2048, 2048, 128
SHIFTS = torch.tensor([0, 16, 4, 20, 8, 24, 12, 28], dtype=torch.int32)


def fallback(x: torch.Tensor, layer: SimpleNamespace) -> torch.Tensor:
    """The plain torch way: unpack the whole layer, then multiply."""
    shifts = SHIFTS.to(x.device)
    codes = (layer.qweight[:, :, None] >> shifts & 15).reshape(IN, OUT)
    zeros = (layer.qzeros[:, :, None] >> shifts & 15).reshape(-1, OUT)
    group = torch.arange(IN, device=x.device) // GROUP
    return x @ ((codes - zeros[group]) * layer.scales[group])


def milliseconds(call, rounds: int = 5) -> float:
    call()
    start = time.perf_counter()
    for _ in range(rounds):
        call()
    return (time.perf_counter() - start) / rounds * 1e3


def main() -> None:
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    torch.manual_seed(0)
    words = {"low": -(2**31), "high": 2**31, "dtype": torch.int32}
    layer = SimpleNamespace(
        qweight=torch.randint(size=(IN, OUT // 8), **words).to(device),
        qzeros=torch.randint(size=(IN // GROUP, OUT // 8), **words).to(device),
        scales=(torch.rand(IN // GROUP, OUT) * 0.01).half().to(device),
    )
    config = SimpleNamespace(group_size=GROUP, pack_factor=8)
    x = torch.randn(1, IN).half().to(device)

    expected = fallback(x, layer)
    found = mps_dequant.awq_dequant_matmul(x, layer, None, config)
    off = (found - expected).abs().max().item() / expected.abs().max().item()
    print(f"on {device}: largest difference {off:.1e} of the largest output (torch rounds each weight, MLX does not)")
    assert off < 2e-3

    print(f"plain torch {milliseconds(lambda: fallback(x, layer).cpu()):8.2f} ms")
    ours = milliseconds(lambda: mps_dequant.awq_dequant_matmul(x, layer, None, config).cpu())
    print(f"MLX, packed {ours:8.2f} ms")


if __name__ == "__main__":
    main()
