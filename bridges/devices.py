"""Adapters for each kind of torch device: which side waits for the other, and whether memory is shared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import mlx.core as mx
import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..backends.host.memory import filled
from ..errors import FormatError
from . import staging
from .lent import Lent

DTYPES = {
    torch.bool: mx.bool_,
    torch.uint8: mx.uint8,
    torch.uint16: mx.uint16,
    torch.uint32: mx.uint32,
    torch.uint64: mx.uint64,
    torch.int8: mx.int8,
    torch.int16: mx.int16,
    torch.int32: mx.int32,
    torch.int64: mx.int64,
    torch.float16: mx.float16,
    torch.bfloat16: mx.bfloat16,
    torch.float32: mx.float32,
    torch.complex64: mx.complex64,
}

# From this many bytes on, page faults of new memory cost more than copying, and large pages pay (measured: 16 MB is
# even).
LARGE = 24 << 20
# Bytes of MLX's memory that are held for torch's queue after their tensors died, before torch is waited for.
MOST_DEAD = 256 << 20
# The first MLX whose imports of torch's MPS tensors cannot hang.
SHARING_MLX = (0, 32, 3)


@dataclass
class Synchronisations:
    """How often one side waited for the other."""

    torch: int = 0
    mlx: int = 0


_counted: ContextVar[Synchronisations | None] = ContextVar("mlx_dequant_synchronisations", default=None)


@contextmanager
def count_synchronisations() -> Generator[Synchronisations]:
    """Counts the waits of the bridge inside the `with`, in this thread or task.

    `torch` counts `torch.mps.synchronize()` before MLX reads, `mlx` counts `mx.eval` before torch reads.
    """
    counts = Synchronisations()
    token = _counted.set(counts)
    try:
        yield counts
    finally:
        _counted.reset(token)


class CPU:
    """Host memory. MLX gets a copy; torch shares MLX's memory."""

    shares = False

    def wait_for_torch(self) -> None:
        """Nothing is in flight: torch's CPU operations end before they return."""

    def take(self, tensor: torch.Tensor, owner: torch.Tensor | None, share: bool) -> mx.array:
        """`tensor` as an MLX array.

        Args:
            tensor: plain and detached, so that the array keeps its storage alive but not `owner`.
            owner: the caller's tensor, if it has the same memory.
            share: fail rather than copy.
        """
        if share:
            return shared(owner, lambda: mx.from_dlpack(tensor, copy=False))
        if tensor.nbytes < LARGE:
            return mx.array(tensor.contiguous())
        return filled(tuple(tensor.shape), DTYPES[tensor.dtype], lambda address: _write(tensor, address))

    def give(self, array: mx.array, device: torch.device) -> torch.Tensor:
        """A torch tensor on the memory of an evaluated array."""
        # By the class: Dynamo calls a method of MLX's arrays without the array.
        return torch.from_dlpack(mx.array.__dlpack__(forwards(array), dl_device=(1, 0)))


def _write(tensor: torch.Tensor, address: int) -> None:
    if tensor.is_contiguous():
        ctypes.memmove(address, tensor.data_ptr(), tensor.nbytes)
        return
    memory = (ctypes.c_uint8 * tensor.nbytes).from_address(address)
    torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)


def mlx_shares() -> bool:
    """Whether this MLX imports torch's MPS tensors."""
    return tuple(map(int, mx.__version__.split(".")[:3])) >= SHARING_MLX


class MPS:
    """Apple's GPU. Both sides use the same Metal buffer, so each must wait for the other's work."""

    shares = True

    def __init__(self) -> None:
        self._lent = Lent(self.wait_for_torch, MOST_DEAD)

    def wait_for_torch(self) -> None:
        dead = self._lent.dead()
        torch.mps.synchronize()
        self._lent.drop(dead)
        counts = _counted.get()
        if counts is not None:
            counts.torch += 1

    def adopt(self, tensor: torch.Tensor) -> mx.array:
        """Shares the tensor's memory."""
        return mx.from_dlpack(tensor, copy=False)

    def take(self, tensor: torch.Tensor, owner: torch.Tensor | None, share: bool) -> mx.array:
        if share and not mlx_shares():
            raise FormatError(f"copy=False: found mlx {mx.__version__}, expected 0.32.3 or later for tensors on MPS")
        if tensor.numel() == 0 or not mlx_shares():
            return HOST.take(tensor.cpu(), owner, share=False)
        try:
            return shared(owner, lambda: self.adopt(tensor))
        except (ValueError, RuntimeError, BufferError):
            # Torch before 2.12 keeps MPS tensors in private memory, which MLX cannot read.
            if share:
                raise
            return HOST.take(tensor.cpu(), owner, share=False)

    def export(self, array: mx.array, device: torch.device) -> torch.Tensor:
        """A tensor on the array's memory."""
        if mx.metal.is_available():
            return torch.from_dlpack(array)
        return HOST.give(array, device).to(device)

    def give(self, array: mx.array, device: torch.device) -> torch.Tensor:
        array = forwards(array)
        tensor = self.export(array, device)
        self._lent.add(tensor, array)
        return tensor


class CUDA:
    """NVIDIA's GPUs. MLX cannot import or export their memory, so all data passes through the host."""

    shares = False

    def wait_for_torch(self) -> None:
        """The copy to the host waits for the tensor's stream itself."""

    def take(self, tensor: torch.Tensor, owner: torch.Tensor | None, share: bool) -> mx.array:
        if share:
            raise FormatError("tensor: found cuda memory, which MLX cannot share; expected copy=None or copy=True")
        if tensor.nbytes < staging.WORTH:
            return mx.array(tensor.cpu().contiguous())
        source = tensor.contiguous()
        # The copy runs in a thread of MLX, which has another current stream.
        torch.cuda.current_stream(source.device).synchronize()
        return filled(tuple(source.shape), DTYPES[source.dtype], lambda address: staging.to_host(source, address))

    def give(self, array: mx.array, device: torch.device) -> torch.Tensor:
        return HOST.give(array, device).to(device)


HOST = CPU()
BY_TYPE: dict[str, CPU | MPS | CUDA] = {"cpu": HOST, "mps": MPS(), "cuda": CUDA()}


def of(device: torch.device) -> CPU | MPS | CUDA:
    """The adapter of a torch device.

    Raises:
        FormatError: the device is not cpu, mps or cuda.
    """
    if device.type not in BY_TYPE:
        raise FormatError(f"device: found {device}, expected cpu, mps or cuda")
    return BY_TYPE[device.type]


def wait_for_mlx(array: mx.array) -> None:
    mx.eval(array)
    counts = _counted.get()
    if counts is not None:
        counts.mlx += 1


def forwards(array: mx.array) -> mx.array:
    """An evaluated array without negative strides, which torch lacks: the array itself, or a copy."""
    if min(memoryview(array).strides, default=0) >= 0:
        return array
    copy = mx.contiguous(array, stream=mx.cpu)
    wait_for_mlx(copy)
    return copy


# MLX may compute in place in an array that nothing else references. So for memory that torch uses too, this holds a
# second reference, with the memory's address and shape, until the tensor dies.
_shared: WeakIdKeyDictionary = WeakIdKeyDictionary()


def shared(owner: torch.Tensor | None, adopt: Callable[[], mx.array]) -> mx.array:
    """The array that `adopt` makes on torch's memory. MLX does not overwrite it while `owner` lives."""
    if owner is None:
        return adopt()
    form = owner.data_ptr(), owner.dtype, owner.shape, owner.stride()
    entry = _shared.get(owner)
    if entry is None or entry[0] != form:
        entry = _shared[owner] = form, adopt()
    alias = mx.stop_gradient(entry[1])
    mx.eval(alias)
    return alias
