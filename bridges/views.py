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
        known = _current(tensor)
        if known is None or known[1] != places:
            known = _cuts[tensor] = state(tensor), places, make()
        return known[2]


def _current(tensor: torch.Tensor) -> tuple[Hashable, Hashable, list[torch.Tensor]] | None:
    """What is known of a tensor as it is: None if it was not cut, or was rewritten since."""
    known = _cuts.get(tensor)
    return known if known is not None and known[0] == state(tensor) else None


def of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The views of a tensor as it is: none if it was not cut, or was rewritten since."""
    known = _current(tensor)
    return known[2] if known else []


def forget_old(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The views of a tensor as it was before it was rewritten; nothing holds them any more."""
    with _cutting:
        known = None if _current(tensor) else _cuts.pop(tensor, None)
        return known[2] if known else []


def empty(tensor: torch.Tensor) -> None:
    """Drops a tensor's hold on its memory, but none of its views.

    Its shape becomes (0,), so that other code that reads it fails.
    """
    with _cutting:
        known = _current(tensor)
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        if known:
            _cuts[tensor] = state(tensor), *known[1:]
