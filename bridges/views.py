"""Views that a tensor is cut into, such as the experts of a stack: the same at each call, so that they cross once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .marks import state

# Of a tensor: its state and the places when it was cut, and the views.
_cuts: WeakIdKeyDictionary = WeakIdKeyDictionary()
_cutting = threading.RLock()  # so that no tensor is cut while it is emptied


def cut(tensor: torch.Tensor, places: Hashable, make: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    """The views that `make` cuts at `places`; it does so again when the tensor was rewritten.

    It takes `tensor.data[...].data`, because torch's own views keep their tensor alive.
    """
    with _cutting:
        now = state(tensor)
        known = _cuts.get(tensor)
        if known is None or known[:2] != (now, places):
            known = _cuts[tensor] = now, places, make()
        return known[2]


def of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The views of a tensor as it is: none if it was not cut, or was rewritten since."""
    known = _cuts.get(tensor)
    return known[2] if known is not None and known[0] == state(tensor) else []


def forget_old(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The views of a tensor as it was before it was rewritten; nothing holds them any more."""
    with _cutting:
        known = _cuts.get(tensor)
        if known is None or known[0] == state(tensor):
            return []
        del _cuts[tensor]
        return known[2]


def empty(tensor: torch.Tensor) -> None:
    """Drops a tensor's hold on its memory, but none of its views.

    Its shape becomes (0,), so that other code that reads it fails.
    """
    with _cutting:
        known = _cuts.get(tensor)
        is_current = known is not None and known[0] == state(tensor)
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        if known is not None and is_current:
            _cuts[tensor] = state(tensor), *known[1:]
