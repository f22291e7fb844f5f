"""Large copies from CUDA to the host, through two pinned buffers: one is filled while the other is emptied.

Measured on an H100, 256 MB: 38 ms into MLX's memory; `.cpu()` and MLX's import take 251 ms. In the other
direction this is no faster than torch's own copy (33 and 31 ms).
"""

from __future__ import annotations

import ctypes

import torch

# Bytes of a buffer, and bytes from which the buffers pay (16 MB: 2.8 ms instead of 3.7).
CHUNK = 8 << 20
WORTH = 2 * CHUNK


def _buffers() -> list[torch.Tensor]:
    """Torch caches freed pinned memory, so only the first call pays for pinning."""
    return [torch.empty(CHUNK, dtype=torch.uint8, pin_memory=True) for _ in range(2)]


def to_host(tensor: torch.Tensor, address: int) -> None:
    """Copies a contiguous CUDA tensor to host memory at `address`."""
    source = tensor.reshape(-1).view(torch.uint8)
    buffers = _buffers()
    with torch.cuda.device(tensor.device):
        arrived = [torch.cuda.Event(), torch.cuda.Event()]

        def start(at: int, turn: int) -> None:
            part = source[at : at + CHUNK]
            buffers[turn][: part.numel()].copy_(part, non_blocking=True)
            arrived[turn].record()

        start(0, 0)
        for step, at in enumerate(range(0, source.numel(), CHUNK)):
            turn = step % 2
            if at + CHUNK < source.numel():
                start(at + CHUNK, 1 - turn)
            arrived[turn].synchronize()
            ctypes.memmove(address + at, buffers[turn].data_ptr(), min(CHUNK, source.numel() - at))
