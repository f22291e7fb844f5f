"""GPUs that a test takes the machine's for, and tables of the dispatcher with other numbers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from mlx_dequant import tuning
from mlx_dequant.backends.gpu import matmul, unpacked
from mlx_dequant.tuning import Device

COLUMNS = ("METAL", "CUDA", "HOPPER", "OLD_CUDA")


@contextmanager
def generation(known: int) -> Generator[None]:
    """Every GPU is of a generation: CUDA's compute capability times ten."""

    def device(platform: str) -> Device:
        return Device(platform, known)

    with patch.object(matmul, "device", device), patch.object(unpacked, "device", device):
        yield


@contextmanager
def tuned(**fields: Any) -> Generator[None]:
    """Every column of the dispatcher's tables has other values in those fields."""
    columns = {name: replace(getattr(tuning, name), **fields) for name in COLUMNS}
    with patch.multiple(tuning, **columns):
        yield
