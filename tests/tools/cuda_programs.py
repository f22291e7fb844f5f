"""What tests of CUDA kernels on the CPU share."""

from contextlib import contextmanager
from unittest.mock import patch

import emulator
import msl_check.cuda
import pytest


def mostly_full(kinds, fast):
    """Kinds for a test, of which `make test` has one."""
    return [pytest.param(kind, marks=() if kind == fast else pytest.mark.full) for kind in kinds]


@contextmanager
def planted(text, mutation):
    """Every kernel source has a mutation in place of a text."""
    found = set()

    def cuda_text(kernel, call):
        header, function = msl_check.cuda.cuda_text(kernel, call)
        found.add(text in header)
        return header.replace(text, mutation), function

    with patch.object(emulator.cuda_device, "cuda_text", cuda_text):
        yield
    assert True in found
