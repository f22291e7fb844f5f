"""Processes: forked before MLX was used, spawned, and ended while work is queued."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
import os, sys, threading, time
import mlx.core as mx, numpy as np
import mlx_dequant as mxd

def weight(rows=64):
    return mxd.GGUFWeight(np.resize(np.arange(34, dtype=np.uint8), (rows, 34 * 8)), "Q8_0")

def total():
    return float(np.asarray(weight().dequantize(mx.float32)).astype(np.float64).sum())
"""
FORK = """
reading, writing = os.pipe()
if os.fork() == 0:
    said = f"{weight().dequantize(mx.float32).shape} {weight().linear(mx.ones((1, 256))).shape} {total()}"
    os.write(writing, said.encode())
    os._exit(0)
os.wait()
print(os.read(reading, 1000).decode() == f"(64, 256) (1, 64) {total()}")  # the parent works on
"""
SPAWN = """
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    expected = total()
    with context.Pool(2) as pool:
        print(all(found == expected for found in pool.starmap(total, [()] * 4)))
"""
EXIT = """
large = weight(8192)
mx.eval(large.dequantize(mx.float32))

def work():
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert large.dequantize(mx.float32).shape == (8192, 256)
        assert large.linear(mx.ones((1, 256))).shape == (1, 8192)
        print("works on" if not threading.main_thread().is_alive() else "works")

if sys.argv[1] == "threads":
    for _ in range(4):
        threading.Thread(target=work).start()
else:
    mx.async_eval([mx.sin(large.dequantize(mx.float32) + each) for each in range(20)])
"""


def ran(tmp_path, text: str, *arguments: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(START + text)
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
@pytest.mark.full
def test_a_fork_before_mlx_is_used_works(tmp_path):
    assert ran(tmp_path, FORK) == "True"


@pytest.mark.full
def test_spawned_processes_work(tmp_path):
    assert ran(tmp_path, SPAWN) == "True"


@pytest.mark.full
def test_threads_work_on_when_the_main_thread_has_ended(tmp_path):
    """Python gives no new work to its pools then."""
    assert ran(tmp_path, EXIT, "threads").endswith("works on")


@pytest.mark.full
def test_the_end_with_work_queued(tmp_path):
    assert ran(tmp_path, EXIT, "queued") == ""
