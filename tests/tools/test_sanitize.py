"""Kernels under sanitizers: a sample of `python -m tests.tools.sanitize`, and what it looks for is found."""

from __future__ import annotations

import emulator
import numpy as np
import pytest
from emulated_kernels import launch, needs_compiler, numbers
from product_cases import FORMATS
from specs import every_spec

from . import sanitize

pytestmark = needs_compiler
full = pytest.mark.full
SAMPLE = (("metal", "q4_0", "address"), ("metal", "ct3", "address"), ("cuda-80", "gptq4", "address"))


@full
@pytest.mark.parametrize(("device", "name", "sanitizer"), SAMPLE)
def test_every_kernel_of_a_format(device, name, sanitizer, watched):
    runs = sanitize.Runs()
    assert sanitize.check(runs, device, name, sanitizer) == []
    expected = {spec.name for spec in every_spec(device.partition("-")[0], FORMATS[name])}
    if not name.startswith(("gptq", "ct")):
        expected -= {"permute_columns"}
    assert {kernel for _, _, kernel in runs.kernels} >= expected - {"split_k_reduce"}
    assert runs.launches > 15


@pytest.mark.parametrize("body", ["out[i] = a[i + 1];", "out[i] = a[int(i) - 1];"], ids=["behind", "before"])
def test_a_read_past_either_end_of_a_buffer(body, watched):
    inside = body.replace("+ 1", "").replace("int(i) - 1", "i")
    start = "uint i = thread_position_in_grid.x;\n"
    assert np.array_equal(np.array(launch(start + inside, numbers(64), **watched)), numbers(64))
    with pytest.raises(emulator.EmulatorError, match="AddressSanitizer"):
        launch(start + body, numbers(64), **watched)


@full
def test_results_that_depend_on_where_buffers_lie(watched):
    body = "out[thread_position_in_grid.x] = float(size_t(a) % 4096);"
    with pytest.raises(emulator.EmulatorError, match="other results where buffers lie elsewhere"):
        launch(body, numbers(60), size=64, **watched)
