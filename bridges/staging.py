"""Large copies between CUDA and the host: two pinned buffers, one in flight while the other is emptied."""

from __future__ import annotations

import ctypes

import torch

# Bytes of a buffer, and bytes from which the two pay.
CHUNK = 8 << 20
WORTH = 2 * CHUNK


def _buffers() -> list[torch.Tensor]:
    """Torch keeps freed pinned memory, so only the first call pays for pinning."""
    return [torch.empty(CHUNK, dtype=torch.uint8, pin_memory=True) for _ in range(2)]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def to_host(tensor: torch.Tensor, address: int) -> None:
    """Copies a contiguous CUDA tensor to host memory at `address`."""
    source = _bytes(tensor)
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


def to_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device` of a contiguous host tensor."""
    out = torch.empty_like(host, device=device)
    source, target = _bytes(host), _bytes(out)
    buffers = _buffers()
    with torch.cuda.device(out.device):
        left = [torch.cuda.Event(), torch.cuda.Event()]
        for step, at in enumerate(range(0, source.numel(), CHUNK)):
            turn = step % 2
            part = source[at : at + CHUNK]
            left[turn].synchronize()
            ctypes.memmove(buffers[turn].data_ptr(), part.data_ptr(), part.numel())
            target[at : at + CHUNK].copy_(buffers[turn][: part.numel()], non_blocking=True)
            left[turn].record()
        torch.cuda.current_stream().synchronize()
    return out
