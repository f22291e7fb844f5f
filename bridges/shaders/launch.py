"""Launches of the Metal kernels on torch's tensors, encoded into torch's own queue. Nothing waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ...encoded import EncodedMatrix
from ...kernel_source import table as words
from ...kernels import THREADS
from ...launches import Launch
from ...registry import Format
from ...tuning import Device
from ..arguments import FLOATS
from . import source

DEVICE = Device("metal")
DTYPES = {name: dtype for dtype, name in FLOATS.items()}
ALIGNMENT = 16  # bytes: kernels load as many at once


@cache
def kernel(*description: Any) -> Callable[..., None]:
    """The kernel as torch's callable; the arguments are those of `source.function`.

    Raises:
        RuntimeError: this GPU cannot run it in threadgroups of `THREADS`.
    """
    name, text = source.function(*description)
    found = getattr(torch.mps.compile_shader(text), name)
    if found.max_threads_per_threadgroup < THREADS:
        raise RuntimeError(
            f"{name}: found at most {found.max_threads_per_threadgroup} threads a threadgroup, expected {THREADS}"
        )
    return found


def device_arrays(matrix: EncodedMatrix) -> list[torch.Tensor]:
    """The matrix's arrays in the loader's order. Zeros stand in for absent ones, the permutation for a sorted g_idx."""
    given = matrix.kernel_arrays()
    device = next(array.device for array in given if array is not None)
    return [torch.zeros(1, dtype=torch.int32, device=device) if array is None else aligned(array) for array in given]


@cache
def table(form: Format, device: torch.device) -> torch.Tensor:
    """A format's table, which all its matrices on a device share; int32, since torch knows little of uint32."""
    return torch.tensor(words(form)).to(torch.int32).to(device)


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it if it is not contiguous or begins at another place than kernels need."""
    offset = tensor.storage_offset() * tensor.element_size()
    return tensor.contiguous() if offset % ALIGNMENT == 0 else tensor.clone(memory_format=torch.contiguous_format)


def numbers(words: tuple[int, ...]) -> list[int]:
    """32-bit words as torch passes lists: by value, each number as 64 bits."""
    even = (*words, *(0,) * (len(words) % 2))
    whole = [low | high << 32 for low, high in zip(even[::2], even[1::2], strict=True)]
    return [number - (number >> 63 << 64) for number in whole]


def bind(matrix: EncodedMatrix | None, launch: Launch, input_dtype: str = "") -> Callable[..., torch.Tensor]:
    """A launch as a function of the tensors that it takes besides the matrix's: contiguous, on the matrix's device.

    Args:
        matrix: None for a kernel that reads no matrix.
        input_dtype: type of the first of these tensors; "" without any.
    """
    threads = launch.threads
    arrays: list[torch.Tensor] = []
    if launch.spec.needs_matrix:
        assert matrix is not None
        if "device" not in matrix.cache:
            matrix.cache["device"] = device_arrays(matrix)
        arrays = matrix.cache["device"]
        if matrix.format.table:
            arrays = [*arrays, table(matrix.format, arrays[0].device)]
        run = kernel(matrix.format, launch.spec, launch.dtype, matrix.scale_dtype, matrix.has_g_idx, input_dtype)
    else:
        run = kernel(None, launch.spec, launch.dtype)
    params, dtype = numbers(launch.params.words), DTYPES[launch.dtype]

    def launched(*inputs: torch.Tensor) -> torch.Tensor:
        tensors = [*arrays, *inputs]
        out = torch.empty(launch.shape, dtype=dtype, device=tensors[0].device)
        run(*tensors, params, out, threads=threads, group_size=THREADS)
        return out

    return launched
