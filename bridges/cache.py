"""The weights that have crossed: packed, and kept only while their tensors live."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from ..weights import QuantizedWeight

# Tensors by which a layer's weights are found.
NAMES = ("qweight", "scales", "qzeros", "g_idx", "weight")

_clock = count()


@dataclass
class _Entry:
    weight: QuantizedWeight
    tensors: list[weakref.ref[torch.Tensor]]
    states: list[Hashable]
    used: int = field(default_factory=lambda: next(_clock))

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        held = all(ref() is tensor for ref, tensor in zip(self.tensors, tensors, strict=True))
        return held and self.states == [_state(tensor) for tensor in tensors]


def _state(tensor: torch.Tensor) -> Hashable:
    """What changes when a tensor is written in place or given other memory."""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride()


class WeightCache:
    """Packed weights by the tensors they came from, held through weak references.

    An entry goes when one of its tensors dies, is written in place (as far as torch counts writes:
    not through `.data`, and not into inference tensors) or gets other memory, or when more than
    `limit` are held, the longest unused first.
    """

    def __init__(self, limit: int = 8192):
        self.limit = limit
        self._entries: dict[Hashable, _Entry] = {}
        # Held while weights are made, so that threads do not make the same ones twice. Removal goes
        # without it: it happens inside the garbage collector, in whatever thread that runs.
        self._making = threading.RLock()

    def get(self, kind: Hashable, tensors: list[torch.Tensor], make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """The weight of these tensors; `make` is called when there is none, `kind` says what else it depends on."""
        key = (kind, *map(id, tensors))
        found = self._entries.get(key)
        if found is None or not found.fits(tensors):
            with self._making:
                found = self._entries.get(key)
                if found is None or not found.fits(tensors):
                    self._entries.pop(key, None)
                    found = self._made(key, tensors, make)
        found.used = next(_clock)
        return found.weight

    def _made(self, key: Hashable, tensors: list[torch.Tensor], make: Callable[[], QuantizedWeight]) -> _Entry:
        states = [_state(tensor) for tensor in tensors]
        entries = self._entries

        def drop(_: Any) -> None:
            entries.pop(key, None)

        entry = _Entry(make(), [weakref.ref(tensor, drop) for tensor in tensors], states)
        if len(entries) >= self.limit:
            held = list(entries.items())
            entries.pop(min(held, key=lambda item: item[1].used)[0], None)
        entries[key] = entry
        return entry

    def invalidate(self, layer: Any) -> None:
        """Forgets the weights of a layer, or of one tensor: for writes that torch does not count."""
        tensors = [layer] if isinstance(layer, torch.Tensor) else [getattr(layer, name, None) for name in NAMES]
        gone = {id(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor)}
        with self._making:
            for key, entry in list(self._entries.items()):
                if any(id(ref()) in gone for ref in entry.tensors):
                    self._entries.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed arrays held."""
        return sum(entry.weight.nbytes for entry in list(self._entries.values()))


WEIGHTS = WeightCache()
invalidate = WEIGHTS.invalidate
