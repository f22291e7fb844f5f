"""Threads that multiply shortly before the process ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlx_dequant.backends.host.compiler import compiler

PROGRAM = """
import threading
import mlx.core as mx, mlx_dequant as mxd
weight = mxd.GGUFWeight(mx.zeros((64, 68), mx.uint8), "Q8_0")
threads = [threading.Thread(target=lambda: mx.eval(weight.linear(mx.ones((1, 64))))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
RUNS = 6  # each aborted in a third to a half of runs


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler was found")
@pytest.mark.parametrize("lazy", ["1", "0"])
def test_a_process_ends_after_threads_that_multiplied(lazy):
    environment = os.environ | {"MLX_DEQUANT_BACKEND": "host", "MLX_DEQUANT_LAZY": lazy}
    runs = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment) for _ in range(RUNS)]
    assert [run.wait() for run in runs] == [0] * RUNS
