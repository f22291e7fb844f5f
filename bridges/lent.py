"""MLX arrays whose memory torch's MPS tensors have."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import mlx.core as mx
import torch
from torch.multiprocessing.reductions import StorageWeakRef


class _Loan(NamedTuple):
    storage: StorageWeakRef
    array: mx.array


class Lent:
    """Holds arrays until torch has been waited for after their tensors died.

    Torch's operations are queued: one that reads a tensor may run after the tensor died. MLX would use the memory for
    another array by then.

    Attributes:
        nbytes: that are held after their tensors died.

    Args:
        wait: waits for torch, and calls `drop` with what was `dead` before.
        most: bytes that are held after their tensors died, before that is called.
    """

    def __init__(self, wait: Callable[[], object], most: int):
        self._wait, self._most, self._limit = wait, most, most
        self._dying: dict[int, _Loan] = {}
        self._numbers = count()
        self.nbytes = 0

    def add(self, tensor: torch.Tensor, array: mx.array) -> None:
        """Holds the array whose memory the tensor has."""
        loan = _Loan(StorageWeakRef(tensor.untyped_storage()), array)
        weakref.finalize(tensor, self._died, loan).atexit = False

    def _died(self, loan: _Loan) -> None:
        self._dying[next(self._numbers)] = loan
        self.nbytes += loan.array.nbytes
        if self.nbytes > self._limit:
            self._wait()

    def dead(self) -> list[int]:
        """The arrays whose memory no tensor has any more, not even a view of one that died."""
        return [number for number, loan in list(self._dying.items()) if loan.storage.expired()]

    def drop(self, dead: list[int]) -> None:
        """Lets go of arrays that were dead before torch was waited for."""
        for number in dead:
            self._dying.pop(number, None)
        self.nbytes = sum(loan.array.nbytes for loan in list(self._dying.values()))
        self._limit = self.nbytes + self._most
