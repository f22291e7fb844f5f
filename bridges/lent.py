"""MLX arrays whose memory torch's MPS tensors have."""

from __future__ import annotations

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
    """

    def __init__(self) -> None:
        self._loans: dict[int, _Loan] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._loans)

    def add(self, tensor: torch.Tensor, array: mx.array) -> None:
        """Holds the array whose memory the tensor has."""
        self._loans[next(self._numbers)] = _Loan(StorageWeakRef(tensor.untyped_storage()), array)

    def dead(self) -> dict[int, int]:
        """The bytes of each array whose tensor died."""
        loans = list(self._loans.items())
        return {number: loan.array.nbytes for number, loan in loans if loan.storage.expired()}

    def drop(self, dead: dict[int, int]) -> None:
        """Lets go of arrays that were dead before torch was waited for."""
        for number in dead:
            self._loans.pop(number, None)
