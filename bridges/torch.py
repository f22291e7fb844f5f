"""Converts torch tensors to MLX arrays and back, with the waits that each direction needs.

CPU: one copy to MLX, none to torch. MPS: no copy if torch's storage is shared (torch 2.12 and later).
CUDA: through pinned host memory both ways, because MLX imports no CUDA tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import torch

from ..errors import FormatError
from . import arguments, devices
from .devices import Synchronisations, count_synchronisations

__all__ = ["Synchronisations", "count_synchronisations", "to_mlx", "to_torch"]


def to_mlx(tensor: torch.Tensor, *, copy: bool | None = None) -> mx.array:
    """A torch tensor as an MLX array of the same shape, dtype and values, without gradients.

    Args:
        tensor: any shape and strides, on the CPU, MPS or CUDA; bool, an integer, float16, bfloat16,
            float32 or complex64.
        copy: None shares memory where that is safe and free (MPS) and copies once elsewhere. True
            always copies. False never does.

    A shared array shows torch's later writes. MLX does not write into it while `tensor` itself lives. If
    only another view of its storage lives on, pass copy=True.

    Raises:
        FormatError: MLX lacks the dtype (float64 among others), the tensor is sparse, nested or on another
            device, or it has no values (a FakeTensor, a meta tensor, a DTensor).
        ValueError: copy=False, and the memory cannot be shared.
    """
    return cross({"tensor": tensor}, copy)[0]


def cross(named: Mapping[str, torch.Tensor], copy: bool | None = None) -> list[mx.array]:
    """Several tensors of one device as MLX arrays, with one wait for all of them."""
    tensors = list(arguments.together(**named).values())
    for name, tensor in named.items():
        _check_dtype(name, tensor.dtype)
    device = devices.of(tensors[0].device)
    for name, tensor in named.items():
        arguments.check_memory(name, tensor)
    pairs = [_source(tensor, copy, device.shares) for tensor in tensors]
    device.wait_for_torch()
    return [device.take(source, owner, copy is False) for source, owner in pairs]


def to_torch(array: mx.array, device: torch.device | str | None = None) -> torch.Tensor:
    """An MLX array as a torch tensor of the same shape, dtype and values.

    Args:
        array: a lazy array is evaluated here; one made by another thread must be evaluated there.
        device: "mps" and "cpu" share MLX's memory, so a write on either side shows on the other, except for
            negative strides, which torch lacks: they are copied. "cuda" gets a copy. By default "mps" where
            MLX runs on Metal, otherwise "cpu".

    Raises:
        FormatError: the device is not cpu, mps or cuda.
    """
    if not isinstance(array, mx.array):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise FormatError(f"array: found {type(array).__name__}, expected an mx.array")
    if device is None:
        device = "mps" if mx.metal.is_available() and torch.backends.mps.is_available() else "cpu"
    target = torch.device(device)
    if array.ndim == 0:  # torch takes none that begins behind the memory's begin
        return to_torch(array.reshape(1), target).reshape(())
    adapter = devices.of(target)
    devices.wait_for_mlx(array)
    return adapter.give(array, target)


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if dtype not in devices.DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in devices.DTYPES)
        raise FormatError(f"{name}: found {dtype}, expected one of {known}")


def _source(tensor: torch.Tensor, copy: bool | None, shares: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The values alone, without gradient, conjugation or negation; and `tensor`, if it has the same memory."""
    plain = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        if copy is False:
            raise FormatError("tensor: found a conjugated or negated view, expected plain values for copy=False")
        return plain.resolve_conj().resolve_neg(), None
    return (plain.clone(), None) if copy and shares else (plain, tensor)
