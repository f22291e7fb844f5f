"""GPUs that a test takes the machine's for, and tables of the dispatcher with other numbers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from mlx_dequant import dispatch, dtypes, tuning
from mlx_dequant.backends.gpu import launch, matmul, unpacked
from mlx_dequant.tuning import Device, Route

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


@contextmanager
def routed(name: str) -> Generator[None]:
    """Every product takes that route, however many rows x has."""
    with tuned(routes=(Route(1, name, frozenset(), "a test"),)):
        yield


def permuted(platform: str, x: mx.array, perm: mx.array, known: int = 0) -> mx.array:
    """x [M, columns] with its columns in the order of `perm`, by the kernel of a device."""
    call = dispatch.permutation(Device(platform, known), *x.shape, dtypes.name(x.dtype))
    return launch.run(platform, None, call, x, perm)
