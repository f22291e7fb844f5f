"""Memory on both sides: valid while either uses it, freed after, across threads."""

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from mlx_dequant.bridges import devices  # noqa: E402
from mlx_dequant.bridges.torch import to_mlx, to_torch  # noqa: E402


@pytest.fixture
def load():
    """Threads that allocate, write and free on both sides, and collect garbage, during the test."""
    ended = threading.Event()

    def churn():
        while not ended.is_set():
            torch.full((5000,), -1.0)
            mx.eval(mx.full((5000,), -1.0))
            gc.collect(0)

    gc.collect()
    gc.freeze()  # What is there already need not be walked each time.
    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()
    gc.unfreeze()


@pytest.fixture(params=["small", "large"])
def count(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(devices, "LARGE", 1 << 21)
        return (1 << 19) + 8
    return 5000


def test_mlx_outlives_torch(load, count):
    for value in range(40):
        array = to_mlx(torch.full((count,), float(value)))
        gc.collect()
        assert mx.all(array == value).item()


def test_torch_outlives_mlx(load, count):
    for value in range(40):
        array = mx.full((count,), float(value))
        tensor = to_torch(array[4:], "cpu")
        del array
        gc.collect()
        assert (tensor == value).all()
        part = tensor[::3]
        del tensor
        gc.collect()
        assert (part == value).all()


def test_mlx_computes_nothing_in_memory_that_torch_sees(count):
    array = mx.ones(count)
    tensor = to_torch(array, "cpu")
    other = mx.abs(array * 2)
    del array
    mx.eval(other)
    assert (tensor == 1).all()


# In a process of its own, whose peak nothing else has raised.
ROUND_TRIPS = """
import resource, sys
import torch
from mlx_dequant.bridges.torch import to_mlx, to_torch

def around(times):
    for _ in range(times):
        tensor = to_torch(to_mlx(given), "cpu")
    assert torch.equal(tensor, given)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

given = torch.randn(1 << 14)
around(1000)
before = peak()
around(10_000)
print(peak() - before)
"""


@pytest.mark.full
def test_ten_thousand_round_trips_leave_nothing():
    done = subprocess.run([sys.executable, "-c", ROUND_TRIPS], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    # Had each trip kept its 64 KB, this would be 640 MB.
    assert int(done.stdout) < 16 << 20


def test_a_tensor_made_in_one_thread_crosses_in_another():
    made = {}
    thread = threading.Thread(target=lambda: made.update(tensor=torch.arange(6.0), array=to_mlx(torch.arange(3.0))))
    thread.start()
    thread.join()
    assert to_mlx(made["tensor"]).tolist() == [0, 1, 2, 3, 4, 5]
    assert to_torch(made["array"] + 1, "cpu").tolist() == [1, 2, 3]


def test_threads_cross_at_once(count):
    def trips(seed):
        tensor = torch.full((count,), float(seed))
        return all(torch.equal(to_torch(to_mlx(tensor) + 0, "cpu"), tensor) for _ in range(25))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(trips, range(16)))
