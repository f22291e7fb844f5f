"""`make soak` for some seconds; and what it looks for is found."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from . import soak

full = pytest.mark.full
ROOT = Path(__file__).parents[2]
CLOSING = (
    r"soak: ([\d,]+) steps of 16 threads in \d+ s, (\d+) problems; memory \d+ then \d+ MB, .*open files \d+ then \d+"
)
kept = []


def slow(random) -> str:
    time.sleep(0.01)
    return "slow"


def wrong(random) -> str:
    soak.equal(mx.array([1.0, -0.0]), soak.np.array([1.0, 0.0], soak.np.float32))
    return "wrong"


def stuck(random) -> str:
    time.sleep(2)
    return "stuck"


def array_kept(random) -> str:
    array = mx.ones(100)
    mx.eval(array)
    kept.append(array)
    return slow(random)


def file_kept(random) -> str:
    kept.append(Path(__file__).open())  # noqa: SIM115
    return slow(random)


def memory_kept(random) -> str:
    kept.append(bytearray(b"1") * (1 << 20))
    return slow(random)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (slow, "soak: "),
        (wrong, "1 of 2 are wrong"),
        (stuck, "16 threads hang"),
        pytest.param(array_kept, "MLX keeps [0-9]+ bytes more than before", marks=full),
        pytest.param(file_kept, "[0-9]+ files more are open than before", marks=full),
        pytest.param(memory_kept, "memory grew from [0-9]+ to [0-9]+ bytes", marks=full),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_faults_are_found(step, message, capfd, monkeypatch):
    monkeypatch.setattr(soak, "PATIENCE", 0.2)
    monkeypatch.setattr(soak, "ROOM", 8 << 20)
    try:
        assert soak.run(step, 0.4, 0) == int(step is not slow)
    finally:
        kept.clear()
    out = capfd.readouterr().out
    assert re.search(message, out)
    assert re.search(CLOSING, out)


@full
def test_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.soak", "--seconds", "6"], cwd=ROOT, capture_output=True, text=True
    )
    steps, problems = re.findall(CLOSING, done.stdout)[0]
    assert (done.returncode, problems) == (0, "0"), done.stdout + done.stderr
    assert int(steps.replace(",", "")) > 50
