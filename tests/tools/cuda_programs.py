"""What tests of CUDA kernels on the CPU share."""

from contextlib import contextmanager
from unittest.mock import patch

import emulator
import msl_check.cuda
import pytest

from mlx_dequant import kernel_source


def mostly_full(kinds, fast):
    """Kinds for a test, of which `make test` has one."""
    return some_full(kinds, (fast,))


def some_full(kinds, fast):
    """Kinds for a test, of which `make test` has those of `fast`."""
    return [pytest.param(kind, marks=() if kind in fast else pytest.mark.full) for kind in kinds]


@contextmanager
def planted(text, mutation):
    """Every kernel source has a mutation in place of a text."""
    found = set()

    def cuda_text(kernel, call):
        header, function = msl_check.cuda.cuda_text(kernel, call)
        found.add(text in header)
        return header.replace(text, mutation), function

    with patch.object(emulator.cuda_device, "cuda_text", cuda_text), whole_texts():
        yield
    assert True in found


@contextmanager
def whole_texts():
    """Kernel sources with the spaces and line ends of the shader files."""
    kernel_source.kernel_source.cache_clear()
    with patch.object(kernel_source, "readable", lambda: True):
        yield
    kernel_source.kernel_source.cache_clear()
