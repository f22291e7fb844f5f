"""The cache of weights that came from torch: quantized, and kept only while their tensors live."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import torch

from .arguments import check_memory
from .sample import Sample

# A layer's tensors by which `invalidate` and `release` find its weights.
NAMES = (
    *("qweight", "scales", "qzeros", "g_idx", "weight"),
    *("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx"),
)

_clock = count()


class Weight(Protocol):
    """What is cached: a quantized weight."""

    @property
    def nbytes(self) -> int: ...


@dataclass
class _Entry:
    weight: Any
    tensors: list[weakref.ref[torch.Tensor]]
    states: list[Hashable]
    samples: list[Sample]
    used: int = field(default_factory=lambda: next(_clock))
    released: bool = False  # torch has dropped the codes, so the weight cannot be made again

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        same = all(ref() is tensor for ref, tensor in zip(self.tensors, tensors, strict=True))
        # Samples read memory, so only where it is known to be the same.
        return (
            same
            and self.states == [state(tensor) for tensor in tensors]
            and all(sample.fits() for sample in self.samples)
        )


def state(tensor: torch.Tensor) -> Hashable:
    """A key that changes when a tensor is written in place or gets other memory."""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride()


def _samples(tensors: list[torch.Tensor]) -> list[Sample]:
    return [Sample(tensor) for tensor in tensors if tensor.device.type == "cpu" and tensor.numel()]


def tensors_of(layer: Any) -> list[torch.Tensor]:
    """A layer's tensors, or the tensor itself."""
    tensors = [layer] if isinstance(layer, torch.Tensor) else [getattr(layer, name, None) for name in NAMES]
    return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]


def empty(tensor: torch.Tensor) -> None:
    """Drops torch's hold on a tensor's memory. Its shape becomes (0,), so that other code that reads it fails."""
    tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


class WeightCache:
    """Quantized weights by the tensors they came from, which are held by weak references.

    An entry is dropped when one of its tensors dies, is written in place or gets other memory. Writes that
    torch does not count, as through `.data`, are found by a sample of each tensor's values. With more than
    `limit` entries, the least recently used one is dropped, but none that was released.
    """

    def __init__(self, limit: int = 8192):
        self.limit = limit
        self._entries: dict[Hashable, _Entry] = {}
        # Locked while weights are made, so that threads do not make the same weight twice. Removal takes
        # no lock, because it happens inside the garbage collector, in any thread.
        self._making = threading.RLock()

    def get(self, kind: Hashable, named: Mapping[str, torch.Tensor], make: Callable[[], Weight]) -> Any:
        """The weight of these tensors; `make` makes a missing one. `kind` is the rest of the key."""
        tensors = list(named.values())
        key = (kind, *map(id, tensors))
        entry = self._entries.get(key)
        if entry is None or not entry.fits(tensors):
            with self._making:
                entry = self._entries.get(key)
                if entry is None or not entry.fits(tensors):
                    self._entries.pop(key, None)
                    for name, tensor in named.items():
                        check_memory(name, tensor)
                    entry = self._made(key, tensors, make)
        entry.used = next(_clock)
        return entry.weight

    def _made(self, key: Hashable, tensors: list[torch.Tensor], make: Callable[[], Weight]) -> _Entry:
        # Taken first: a write while the weight is made shows at the next call.
        states, samples = [state(tensor) for tensor in tensors], _samples(tensors)
        entries = self._entries

        def drop(_: Any) -> None:
            entries.pop(key, None)

        entry = _Entry(make(), [weakref.ref(tensor, drop) for tensor in tensors], states, samples)
        if len(entries) >= self.limit:
            items = [item for item in list(entries.items()) if not item[1].released]
            if items:
                entries.pop(min(items, key=lambda item: item[1].used)[0], None)
        entries[key] = entry
        return entry

    def invalidate(self, layer: Any) -> None:
        """Drops the weights of a layer, or of one tensor, after writes that torch does not count."""
        with self._making:
            for key, _ in self._of(tensors_of(layer)):
                self._entries.pop(key, None)

    def release(self, tensors: list[torch.Tensor]) -> None:
        """Drops torch's copies of the codes, the first tensor of each weight, of all weights made of these."""
        with self._making:
            found = [entry for _, entry in self._of(tensors)]
            codes = {id(tensor): tensor for entry in found if (tensor := entry.tensors[0]()) is not None}
            for tensor in codes.values():
                empty(tensor)
            for _, entry in self._of(list(codes.values())):
                left = [tensor for ref in entry.tensors if (tensor := ref()) is not None]
                entry.states, entry.samples, entry.released = [state(tensor) for tensor in left], _samples(left), True

    def _of(self, tensors: list[torch.Tensor]) -> list[tuple[Hashable, _Entry]]:
        """The entries made of any of these."""
        wanted = {id(tensor) for tensor in tensors}
        items = list(self._entries.items())
        return [(key, entry) for key, entry in items if any(id(ref()) in wanted for ref in entry.tensors)]

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
