"""The cache of weights that came from torch: quantized, and kept only while their tensors live."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeAlias

import torch
from torch.utils.weak import WeakIdKeyDictionary

from . import views
from .arguments import check_memory
from .marks import Mark

# A layer's tensors by which `invalidate` and `release` find its weights.
NAMES = (
    *("qweight", "scales", "qzeros", "g_idx", "weight", "gate_up_proj", "down_proj"),
    *("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx"),
)

Key: TypeAlias = tuple[Hashable, ...]  # what the weight depends on besides tensors, and the ids of the tensors
_clock = count()


class Weight(Protocol):
    """What is cached: a quantized weight."""

    @property
    def nbytes(self) -> int: ...


@dataclass(eq=False)
class _Entry:
    key: Key
    weight: Any
    marks: list[Mark]  # of the tensors it came from, the codes first
    used: int = field(default_factory=lambda: next(_clock))

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        return all(mark.fits(tensor) for mark, tensor in zip(self.marks, tensors, strict=True))

    @property
    def codes(self) -> Any:
        matrix = self.weight.matrix
        return matrix.arrays[matrix.family.codes or "blocks"]

    def has(self, codes: torch.Tensor) -> bool:
        """Whether the weight was made of this tensor of codes, as it is. All bytes are compared."""
        released = not codes.numel()
        return self.marks[0].fits(codes) and (released or _bytes_equal(self.codes, codes))


def tensors_of(layer: Any) -> list[torch.Tensor]:
    """A layer's tensors, or the tensor itself."""
    tensors = [layer] if isinstance(layer, torch.Tensor) else [getattr(layer, name, None) for name in NAMES]
    return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]


def _bytes_equal(codes: Any, tensor: torch.Tensor) -> bool:
    if not isinstance(codes, torch.Tensor):
        from .torch import to_torch

        codes = to_torch(codes, tensor.device)
    one, other = (each.detach().reshape(-1).view(torch.uint8) for each in (codes, tensor))
    return torch.equal(one, other)


class WeightCache:
    """Quantized weights by the tensors they came from, which are held by weak references.

    An entry is dropped when one of its tensors dies, is written in place or gets other memory. Writes that
    torch does not count, as through `.data`, are found by a sample of each tensor's values. With more than
    `limit` entries, the least recently used one is dropped. Codes that were released are kept besides: whatever
    happens to an entry, they serve while their tensor lives and gets no others.
    """

    def __init__(self, limit: int = 8192):
        self.limit = limit
        self._entries: dict[Key, _Entry] = {}
        self._released: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # Locked while weights are made, so that threads do not make the same weight twice. Removal takes
        # no lock, because it happens inside the garbage collector, in any thread.
        self._making = threading.RLock()
        # Locked while samples are read and while memory is given up, so that no freed memory is read.
        self._reading = threading.RLock()

    def get(self, kind: Hashable, named: Mapping[str, torch.Tensor], make: Callable[[], Weight]) -> Any:
        """The weight of these tensors; `make` makes a missing one. `kind` is the rest of the key."""
        tensors = list(named.values())
        key = (kind, *map(id, tensors))
        entry = self._entries.get(key)
        if not self._fits(entry, tensors):
            with self._making:
                entry = self._entries.get(key)
                if not self._fits(entry, tensors):
                    self._entries.pop(key, None)
                    for name, tensor in named.items():
                        check_memory(name, tensor)
                    entry = self._made(key, tensors, make)
        assert entry is not None
        entry.used = next(_clock)
        return entry.weight

    def _fits(self, entry: _Entry | None, tensors: list[torch.Tensor]) -> bool:
        with self._reading:
            return entry is not None and entry.fits(tensors)

    def _made(self, key: Key, tensors: list[torch.Tensor], make: Callable[[], Weight]) -> _Entry:
        entries = self._entries

        def drop(_: Any) -> None:
            entries.pop(key, None)

        # Taken first: a write while the weight is made shows at the next call.
        marks = [Mark(tensor, drop) for tensor in tensors]
        entry = _Entry(key, make(), marks)
        if len(entries) >= self.limit:
            items = list(entries.items())
            if items:
                entries.pop(min(items, key=lambda item: item[1].used)[0], None)
        entries[key] = entry
        return entry

    def invalidate(self, layer: Any) -> None:
        """Drops the weights of a layer, or of one tensor, after writes that torch does not count."""
        tensors = tensors_of(layer)
        wanted = {id(each) for tensor in tensors for each in (tensor, *views.of(tensor), *views.forget_old(tensor))}
        with self._making:
            for key in list(self._entries):
                if wanted.intersection(key[1:]):
                    self._entries.pop(key, None)

    def release(self, layer: Any) -> None:
        """Drops torch's copies of the codes of a layer, or of one tensor, if its weights have them as they are."""
        with self._making:
            made: defaultdict[Hashable, list[_Entry]] = defaultdict(list)  # by the id of their codes
            for key, entry in list(self._entries.items()):
                made[key[1]].append(entry)
            for tensor in tensors_of(layer):
                parts = views.of(tensor)
                current = {id(each): self._current(each, made[id(each)]) for each in (*parts, tensor)}
                if all(current[id(part)] for part in parts or [tensor]):
                    for each in (*parts, tensor):
                        self._release(each, current[id(each)])

    def _current(self, codes: torch.Tensor, made: list[_Entry]) -> list[_Entry]:
        """Those of the entries that have a tensor's codes as they are; the others are dropped."""
        current = [entry for entry in made if entry.has(codes)]
        for entry in made:
            if entry not in current:
                self._entries.pop(entry.key, None)
        return current

    def _release(self, codes: torch.Tensor, entries: list[_Entry]) -> None:
        if entries:
            self._released[codes] = entries[0].codes
        with self._reading:
            views.empty(codes)
            for entry in entries:
                entry.marks[0].renew(codes)

    def codes(self, tensor: torch.Tensor) -> Any:
        """A layer's first tensor; or if it was released, its codes as the weights have them."""
        if tensor.numel():
            self._released.pop(tensor, None)  # it has new ones
        return self._released.get(tensor, tensor)

    def clear(self) -> None:
        """Drops all weights, but no codes that were released."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached arrays."""
        return sum(entry.weight.nbytes for entry in list(self._entries.values()))


WEIGHTS = WeightCache()
invalidate, release = WEIGHTS.invalidate, WEIGHTS.release
