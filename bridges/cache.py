"""The cache of weights that came from torch: quantized, and kept only while their tensors live."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from ..weights import QuantizedWeight
from .sample import Sample

# A layer's tensors by which `invalidate` finds its weights.
NAMES = ("qweight", "scales", "qzeros", "g_idx", "weight")

_clock = count()


@dataclass
class _Entry:
    weight: QuantizedWeight
    tensors: list[weakref.ref[torch.Tensor]]
    states: list[Hashable]
    samples: list[Sample]
    used: int = field(default_factory=lambda: next(_clock))

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        same = all(ref() is tensor for ref, tensor in zip(self.tensors, tensors, strict=True))
        # Samples read memory, so only where it is known to be the same.
        return (
            same
            and self.states == [_state(tensor) for tensor in tensors]
            and all(sample.fits() for sample in self.samples)
        )


def _state(tensor: torch.Tensor) -> Hashable:
    """A key that changes when a tensor is written in place or gets other memory."""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride()


class WeightCache:
    """Quantized weights by the tensors they came from, which are held by weak references.

    An entry is dropped when one of its tensors dies, is written in place or gets other memory. Writes that
    torch does not count, as through `.data`, are found by a sample of each tensor's values. With more than
    `limit` entries, the least recently used one is dropped.
    """

    def __init__(self, limit: int = 8192):
        self.limit = limit
        self._entries: dict[Hashable, _Entry] = {}
        # Locked while weights are made, so that threads do not make the same weight twice. Removal takes
        # no lock, because it happens inside the garbage collector, in any thread.
        self._making = threading.RLock()

    def get(self, kind: Hashable, tensors: list[torch.Tensor], make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """The weight of these tensors; `make` makes a missing one. `kind` is the rest of the key."""
        key = (kind, *map(id, tensors))
        entry = self._entries.get(key)
        if entry is None or not entry.fits(tensors):
            with self._making:
                entry = self._entries.get(key)
                if entry is None or not entry.fits(tensors):
                    self._entries.pop(key, None)
                    entry = self._made(key, tensors, make)
        entry.used = next(_clock)
        return entry.weight

    def _made(self, key: Hashable, tensors: list[torch.Tensor], make: Callable[[], QuantizedWeight]) -> _Entry:
        states = [_state(tensor) for tensor in tensors]
        samples = [Sample(tensor) for tensor in tensors if tensor.device.type == "cpu" and tensor.numel()]
        entries = self._entries

        def drop(_: Any) -> None:
            entries.pop(key, None)

        entry = _Entry(make(), [weakref.ref(tensor, drop) for tensor in tensors], states, samples)
        if len(entries) >= self.limit:
            items = list(entries.items())
            entries.pop(min(items, key=lambda item: item[1].used)[0], None)
        entries[key] = entry
        return entry

    def invalidate(self, layer: Any) -> None:
        """Drops the weights of a layer, or of one tensor, after writes that torch does not count."""
        tensors = [layer] if isinstance(layer, torch.Tensor) else [getattr(layer, name, None) for name in NAMES]
        gone = {id(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor)}
        with self._making:
            for key, entry in list(self._entries.items()):
                if any(id(ref()) in gone for ref in entry.tensors):
                    self._entries.pop(key, None)

    def clear(self) -> None:
        """Drops all weights."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached arrays."""
        return sum(entry.weight.nbytes for entry in list(self._entries.values()))


WEIGHTS = WeightCache()
invalidate = WEIGHTS.invalidate
