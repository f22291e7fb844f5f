"""GPUs that a test takes the machine's for, and tables of the dispatcher with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from mlx_dequant import backends, dtypes, launches, tuning
from mlx_dequant.backends.gpu import dequantize, gather, gather_matmul, launch, matmul
from mlx_dequant.encoded import EncodedMatrix
from mlx_dequant.tuning import Device, Route

COLUMNS = ("METAL", "M5", "CUDA", "HOPPER", "OLD_CUDA")
OPERATIONS = ("dequantize", "matmul", "gather", "gather_matmul")


@contextmanager
def anew() -> Generator[None]:
    """The GPU backends decide each call anew: what they kept was for another device, or for other kernels."""

    def each_time(operation: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(matrix: EncodedMatrix, *rest: Any) -> mx.array:
            launch.bound.clear()
            try:
                return operation(matrix, *rest)
            finally:
                launch.bound.clear()

        return call

    with ExitStack() as patches:
        for backend in (backends.metal, backends.cuda):
            for name in OPERATIONS:
                patches.enter_context(patch.object(backend, name, each_time(getattr(backend, name))))
            # An emulated launch needs values, so MLX cannot trace it.
            patches.enter_context(patch.object(backend, "is_replayable", lambda *product: False))
        yield


@contextmanager
def generation(known: int) -> Generator[None]:
    """Every GPU is of a generation, as `tuning.Device` has it."""

    def device(platform: str) -> Device:
        return Device(platform, known)

    modules = (matmul, dequantize, gather, gather_matmul)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "device", device))
        stack.enter_context(anew())
        yield


@contextmanager
def tuned(**fields: Any) -> Generator[None]:
    """Every column of the dispatcher's tables has other values in those fields."""
    columns = {name: replace(getattr(tuning, name), **fields) for name in COLUMNS}
    with patch.multiple(tuning, **columns), anew():
        yield


@contextmanager
def routed(name: str) -> Generator[None]:
    """Every product takes that route, however many rows x has."""
    with tuned(routes=(Route(1, name, frozenset(), "a test"),)):
        yield


@contextmanager
def exact_matmul() -> Generator[None]:
    """MLX's dense product sums in float32, as on a GPU: on the CPU it sums in half precision."""
    plain = mx.array.__matmul__

    def matmul(a: mx.array, b: mx.array) -> mx.array:
        return plain(a.astype(mx.float32), b.astype(mx.float32)).astype(a.dtype)

    with patch.object(mx.array, "__matmul__", matmul):
        yield


def permuted(platform: str, x: mx.array, perm: mx.array, known: int = 0) -> mx.array:
    """x [M, columns] with its columns in the order of `perm`, by the kernel of a device."""
    call = launches.permutation(Device(platform, known), *x.shape, dtypes.name(x.dtype))
    return launch.bind(platform, None, call)(None, x, perm)
