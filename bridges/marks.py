"""What a tensor was when it was last seen: it shows whether the tensor was rewritten since."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch

from .sample import Sample


def state(tensor: torch.Tensor) -> Hashable:
    """A key that changes when a tensor is written in place or gets other memory."""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride()


class Mark:
    """A tensor's state, and on the CPU a sample of its values. It does not keep the tensor alive.

    Args:
        tensor: has memory, as `arguments.check_memory` says.
        died: called when the tensor dies.
    """

    def __init__(self, tensor: torch.Tensor, died: Callable[[Any], object]):
        self.tensor = weakref.ref(tensor, died)
        self.renew(tensor)

    def renew(self, tensor: torch.Tensor) -> None:
        """Takes the tensor as it is now."""
        sample = Sample(tensor) if tensor.device.type == "cpu" and tensor.numel() else None
        self._seen = state(tensor), sample  # at once: other threads read it

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether this is the tensor, unchanged."""
        seen, sample = self._seen
        # The sample reads memory, so only where it is known to be the same.
        same = self.tensor() is tensor and seen == state(tensor)
        return same and (sample is None or sample.fits())
