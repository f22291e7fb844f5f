"""Products hold no more than 64 MB of unpacked weight."""

import tracemalloc
from importlib import import_module
from itertools import count
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.backends import gpu

product = import_module("mlx_dequant.backends.host.product")

MOST = 64 << 20
SLACK = 4 << 20


def test_the_limits():
    assert 2 * gpu.DENSE <= MOST
    assert product.CHUNK * 4 <= MOST


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
def test_a_gpu_unpacks_parts(monkeypatch, dtype, transpose):
    """Each launch of the dense product, with zeros in the place of its result."""
    rows, columns = 8192, 12288
    weight = SimpleNamespace(rows=rows, columns=columns)
    parts = []

    def region(target, weight, kind, part):
        parts.append(part)
        return mx.zeros((part.rows, part.columns), kind)

    monkeypatch.setattr(gpu, "region", region)
    x = mx.zeros((1, columns if transpose else rows), dtype)
    mx.eval(x)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    out = gpu._unpacked_product("metal", weight, x, transpose)
    mx.eval(out)
    assert mx.get_peak_memory() - before <= MOST + SLACK
    assert out.shape == (1, rows if transpose else columns)
    assert len(parts) > 2
    assert sum(part.rows * part.columns for part in parts) == rows * columns
    assert 2 * max(part.rows * part.columns for part in parts) * dtype.size <= MOST


@pytest.mark.parametrize("late", [False, True])
def test_memory_that_is_freed_late_is_waited_for(monkeypatch, late):
    used, waits = count(0, gpu.DENSE if late else 1), []
    monkeypatch.setattr(mx, "get_active_memory", lambda: next(used))
    monkeypatch.setattr(mx, "synchronize", lambda: waits.append(1))
    monkeypatch.setattr(gpu, "region", lambda target, weight, kind, part: mx.zeros((part.rows, part.columns), kind))
    weight = SimpleNamespace(rows=8192, columns=12288)
    mx.eval(gpu._unpacked_product("metal", weight, mx.zeros((1, 12288), mx.float16), transpose=True))
    assert bool(waits) == late


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("transpose", [False, True])
def test_the_host_unpacks_chunks(transpose):
    """NumPy's memory during a product of many vectors, its inputs and output aside."""
    rows, columns = 8192, 4096
    packed = mxd.GGUFWeight(mx.zeros((rows, columns // 32 * 18), mx.uint8), "Q4_0")
    assert packed.size * 4 > MOST
    x = mx.ones((product.MANY, columns))
    cotangent = mx.ones((product.MANY, rows))
    mx.eval(x, cotangent, packed.linear(x[:, :]))
    tracemalloc.start()
    try:
        found = packed.linear(x) if transpose else mx.vjp(packed.linear, [x], [cotangent])[1][0]
        mx.eval(found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (product.MANY, rows if transpose else columns)
    assert product.CHUNK * 4 < peak <= product.CHUNK * 4 + SLACK
    assert not np.array(found).any()
