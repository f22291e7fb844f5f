"""`torch.mps.compile_shader` for tests: shaders run in the grid emulator, on tensors of the CPU."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from mlx_dequant.bridges import shaders, targets
from mlx_dequant.bridges.cache import WEIGHTS
from mlx_dequant.bridges.shaders import launch

from . import text
from .launch import Options, fenced, run

_words = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class Function:
    """A kernel as torch has it: tensors are bound where they begin, lists of integers go by value, 64 bits each."""

    max_threads_per_threadgroup = 1024

    def __init__(self, source: str, options: Options):
        self.name, parameters = text.signature(source)
        self.buffers = sum(parameter.is_buffer for parameter in parameters)
        self.cpp, self.options = text.cpp(source), options

    def __call__(self, *arguments: Any, threads: int, group_size: int) -> None:
        assert len(arguments) == self.buffers
        buffers = [fenced(_memory(argument)) for argument in arguments]
        out = arguments[-1]
        buffers[-1].view(np.uint8)[...] = 0xFF  # NaN
        run(self.cpp, buffers, (threads, 1, 1), (group_size, 1, 1), self.options)
        out.copy_(torch.from_numpy(buffers[-1].copy()).view(out.dtype).view(out.shape))


def _memory(argument: Any) -> np.ndarray:
    """What a kernel finds at a buffer's address: elements in memory's order, whatever the strides say."""
    if not isinstance(argument, torch.Tensor):
        return np.array(argument, np.int64)
    flat = argument.as_strided((argument.numel(),), (1,))
    return flat.view(_words[argument.element_size()]).numpy()


def library(source: str, options: Options | None = None) -> Any:
    """What `torch.mps.compile_shader` gives for a text of one kernel: its function by its name."""
    function = Function(source, options or Options())
    return SimpleNamespace(**{function.name: function})


@contextmanager
def torch_shaders(**options: Any) -> Generator[None]:
    """Layers of CPU tensors run as on MPS: by shaders that torch compiles, here the emulator.

    Args:
        options: those of `Options`.
    """
    chosen = Options(**options)
    launch.kernel.cache_clear()
    WEIGHTS.clear()
    try:
        with (
            patch.object(torch.mps, "compile_shader", lambda source: library(source, chosen)),
            patch.object(targets, "of", lambda tensor: shaders),
        ):
            yield
    finally:
        launch.kernel.cache_clear()
        WEIGHTS.clear()
