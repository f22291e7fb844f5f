"""Products hold a bounded part of the dequantized matrix."""

import tracemalloc
from importlib import import_module

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant import dispatch, dtypes
from mlx_dequant.backends.gpu import matmul
from mlx_dequant.encoded import EncodedMatrix
from mlx_dequant.tuning import Device

host = import_module("mlx_dequant.backends.host.matmul")

PART = 32 << 20
SLACK = 4 << 20
ROWS, COLUMNS = 8192, 12288


def test_the_limits():
    assert dispatch.DENSE_BYTES == 512 << 20
    assert host.CHUNK * 4 == 16 << 20


@pytest.fixture
def small_parts(monkeypatch):
    """Two parts of 16 MB at a time, and zeros in their place; the fixture is the list of those that were asked for."""
    regions = []

    def region(platform, matrix, dtype, part):
        regions.append(part)
        return mx.zeros((part.rows, part.columns), dtype)

    monkeypatch.setattr(dispatch, "DENSE_BYTES", PART)
    monkeypatch.setattr(matmul, "DENSE_BYTES", PART)
    monkeypatch.setattr(matmul, "region", region)
    return regions


def product(x, transpose):
    matrix = EncodedMatrix({}, mxd.formats()["q4_0"], ROWS, COLUMNS)
    operation = dispatch.MATMUL_T if transpose else dispatch.MATMUL
    plan = dispatch.plan(Device("metal"), matrix, 5000, dtypes.name(x.dtype), operation)
    assert plan.route == "dequantize_then_gemm"
    return matmul.dequantized_product("metal", matrix, plan, x, transpose)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
def test_a_gpu_dequantizes_parts(small_parts, dtype, transpose):
    """One part is multiplied while the next is made."""
    x = mx.zeros((1, COLUMNS if transpose else ROWS), dtype)
    mx.eval(x)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    out = product(x, transpose)
    mx.eval(out)
    assert mx.get_peak_memory() - before <= PART + SLACK
    assert out.shape == (1, ROWS if transpose else COLUMNS)
    assert len(small_parts) > 2
    assert sum(part.rows * part.columns for part in small_parts) == ROWS * COLUMNS
    assert 2 * max(part.rows * part.columns for part in small_parts) * dtype.size <= PART


@pytest.mark.parametrize("late", [False, True])
def test_memory_that_is_freed_late_is_waited_for(small_parts, monkeypatch, late):
    used, waits = iter(range(0, 10**15, PART if late else 1)), []
    monkeypatch.setattr(mx, "get_active_memory", lambda: next(used))
    monkeypatch.setattr(mx, "synchronize", lambda: waits.append(1))
    mx.eval(product(mx.zeros((1, COLUMNS), mx.float16), transpose=True))
    assert bool(waits) == late


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("transpose", [False, True])
def test_the_host_dequantizes_chunks(transpose):
    """NumPy's memory during a product of many rows of x, its operands and result aside."""
    rows, columns = 8192, 4096
    packed = mxd.GGUFWeight(mx.zeros((rows, columns // 32 * 18), mx.uint8), "Q4_0")
    assert packed.size * 4 > 4 * host.CHUNK * 4
    x = mx.ones((host.BLAS_ROWS, columns))
    cotangent = mx.ones((host.BLAS_ROWS, rows))
    mx.eval(x, cotangent, packed.linear(x[:, :]))
    tracemalloc.start()
    try:
        found = packed.linear(x) if transpose else mx.vjp(packed.linear, [x], [cotangent])[1][0]
        mx.eval(found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (host.BLAS_ROWS, rows if transpose else columns)
    assert host.CHUNK * 4 < peak <= host.CHUNK * 4 + SLACK
    assert not np.array(found).any()
