"""The host backend: threads, forks, MLX's memory, and MLX's transformations around it."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import mlx.core as mx
import numpy as np
import pytest
from support import DTYPES, assert_same, bits, in_four_threads

import mlx_dequant as mxd
from mlx_dequant.backends.host import driver, library, memory, threads
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.encoded import PARAMS
from mlx_dequant.ops.linear import matmul

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def thread_count(monkeypatch):
    """Sets MLX_DEQUANT_THREADS for the rest of the test."""

    def choose(count):
        monkeypatch.setenv("MLX_DEQUANT_THREADS", count)
        threads._setting.cache_clear()

    yield choose
    threads._setting.cache_clear()


def steps_of(work, steps, cost):
    """Calls `work(begin, end)` for all steps of a loop, whose unit of work is known to cost `cost` nanoseconds."""
    size = ctypes.c_size_t
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, size, size)(lambda _, __, a, b: work(a, b))
    loop = library.Loop(ctypes.cast(run, ctypes.c_void_p), cost)
    driver.each_step(loop, b"", bytes(4 * len(PARAMS)), steps, 1)
    return loop


def large(rows=700):
    """Rows that end inside a run of 32."""
    words = np.random.default_rng(0).integers(0, 1 << 16, (rows, 777), np.uint16)
    return mxd.GGUFWeight(words.view(np.uint8), "BF16")


def test_the_number_of_threads_changes_nothing(thread_count):
    """Dequantizing, and products of one row of x and of many, both ways, bit for bit."""
    weight = sample_weights.gguf("q4_k", np.random.default_rng(0), 700, 1024, plain=True)
    x, y = mx.random.normal((40, 1024)), mx.random.normal((40, 700))
    found = []
    for count in "1237":
        thread_count(count)
        assert threads.count() == int(count)
        for loop in library._loops:
            loop.cost = 1e6  # so that every thread pays
        pairs = [(given[:rows], given is x) for rows in (1, 40) for given in (x, y)]
        products = [matmul(weight.matrix, given, transpose) for given, transpose in pairs]
        found.append([bits(array) for array in (weight.dequantize(mx.float32), *products)])
    for count, results in zip("237", found[1:], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(found[0], results, strict=True)), f"{count} threads"


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 1000])
def test_every_step_is_done_once(thread_count, steps):
    thread_count("3")
    done = np.zeros(steps, int)

    def work(begin, end):
        done[begin:end] += 1

    steps_of(work, steps, 1e9)
    assert (done == 1).all()


def test_threads_help_where_they_pay(thread_count):
    """A loop of slow steps is shared; one of quick steps is not, but for a trial now and then."""
    thread_count("3")

    def helpers(cost, pause):
        seen = set()

        def work(begin, end):
            seen.add(threading.get_ident())
            time.sleep(pause)

        steps_of(work, 12, cost)
        return len(seen) - 1

    assert max(helpers(1e8, 0.02) for _ in range(3)) in (1, 2)
    assert min(helpers(1, 0) for _ in range(3)) == 0


def test_the_cost_of_a_loop_is_measured(thread_count):
    thread_count("1")
    loop = steps_of(lambda begin, end: time.sleep(0.01 * (end - begin)), 2, 0)
    assert 1e7 <= loop.cost <= 1e9


def test_torchs_number_of_threads(monkeypatch, thread_count):
    """The bridge's products are limited to it; MLX_DEQUANT_THREADS stands above it."""
    with threads.limited_to(5):
        assert threads.count() == 5
        thread_count("2")
        assert threads.count() == 2
    monkeypatch.delenv("MLX_DEQUANT_THREADS")
    threads._setting.cache_clear()
    assert threads.count() == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none(thread_count, asked):
    thread_count(asked)
    with pytest.raises(ValueError, match=rf"MLX_DEQUANT_THREADS: found '{asked}', expected a positive integer"):
        large().dequantize(mx.float32)


def test_python_threads_at_once(thread_count):
    """Four threads share two weights; each gets every bit."""
    thread_count("2")
    weights = [large(), large(100)]
    with mxd.use_backend("reference"):
        expected = [bits(weight.dequantize(mx.float32)) for weight in weights]

    def dequantize():
        with mxd.use_backend("host"):
            for weight, want in zip(weights * 3, expected * 3, strict=True):
                assert_same(weight.dequantize(mx.float32), want)

    in_four_threads(dequantize)


def test_the_gil_is_released():
    """ctypes holds it only in functions of its PyDLL, which are marked."""
    found = driver.driver()
    for function in (found.product, found.expert_product, found.look_up, found.each_step):
        assert not type(function)._flags_ & ctypes._FUNCFLAG_PYTHONAPI
    assert type(ctypes.pythonapi.Py_IsInitialized)._flags_ & ctypes._FUNCFLAG_PYTHONAPI


def test_after_a_fork():
    """A child has none of its parent's threads, and starts its own."""
    script = """
import os
import numpy as np
import mlx.core as mx
import mlx_dequant as mxd
from mlx_dequant.backends.host import library
words = np.random.default_rng(0).integers(0, 1 << 16, (500, 777), np.uint16)
weight = mxd.GGUFWeight(words.view(np.uint8), "F16")
with mxd.use_backend("host"):
    before = np.array(weight.dequantize(mx.float32)).tobytes()
    library._loops[0].cost = 1e6  # so that a thread pays
    assert np.array(weight.dequantize(mx.float32)).tobytes() == before
    library._loops[0].cost = 1e6
    child = os.fork()
    if child == 0:
        after = np.array(weight.dequantize(mx.float32)).tobytes()
        os._exit(0 if after == before else 3)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**os.environ, "MLX_DEQUANT_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def shape_of(size, dtype):
    """A shape of two axes that takes `size` bytes."""
    return (2, size // dtype.size // 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [8, memory.SMALL, memory.SMALL + 8, 5 * memory.SMALL])
def test_memory_is_filled(size, dtype):
    """Small results are copied into MLX, large ones are written where MLX will keep them."""
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    array = memory.filled(shape_of(size, dtype), dtype, lambda address: ctypes.memmove(address, data.ctypes.data, size))
    assert (array.shape, array.dtype) == (shape_of(size, dtype), dtype)
    assert bits(array).tobytes() == data.tobytes()


@pytest.mark.parametrize("size", [8, memory.SMALL + 8])
def test_an_error_while_filling_is_raised(size):
    def fill(address):
        raise KeyError("from fill")

    with pytest.raises(KeyError, match="from fill"):
        memory.filled(shape_of(size, mx.float32), mx.float32, fill)


# Of either way that memory is filled.
@pytest.mark.parametrize("rows", [4, 800])
def test_inside_compile_and_grad(rows):
    """A constant weight is dequantized while MLX traces."""
    weight = large(rows)
    with mxd.use_backend("reference"):
        dense = mx.where(mx.isfinite(weight.dequantize(mx.float32)), 1.0, 0.0)

    def loss(x):
        finite = mx.where(mx.isfinite(weight.dequantize(mx.float32)), 1.0, 0.0)
        return (x * finite).sum()

    x = mx.arange(777, dtype=mx.float32)
    expected = (x * dense).sum().item()
    assert mx.compile(loss)(x).item() == expected
    assert mx.grad(loss)(x).tolist() == dense.sum(0).tolist()
    assert mx.compile(mx.grad(loss))(x).tolist() == dense.sum(0).tolist()


def test_python_ends_after_mlx_has_let_go_of_files():
    memory._wait_for_files()
    file = memory._Safetensors((1,), "F32", 4, lambda address: None)
    thread = threading.Thread(target=lambda _: time.sleep(0.05), args=(file,))
    thread.start()
    del file
    assert len(memory._files) == 1
    memory._wait_for_files()
    assert not memory._files


def test_python_ends_well_after_dequantizing():
    script = """
import mlx_dequant as mxd, numpy as np, mlx.core as mx
with mxd.use_backend("host"):
    mxd.GGUFWeight(np.zeros((4096, 18 * 32), np.uint8), "Q4_0").dequantize(mx.float32)
"""
    assert [subprocess.run([sys.executable, "-c", script]).returncode for _ in range(3)] == [0] * 3
