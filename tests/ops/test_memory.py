"""Products hold a bounded part of the dequantized matrix."""

import subprocess
import sys

import mlx.core as mx
import pytest

import mlx_dequant as mxd
from mlx_dequant import dispatch, dtypes
from mlx_dequant.backends.gpu import matmul
from mlx_dequant.encoded import EncodedMatrix
from mlx_dequant.tuning import Device

PART = 32 << 20
SLACK = 4 << 20
ROWS, COLUMNS = 8192, 12288


def test_the_limit():
    assert dispatch.DENSE_BYTES == 512 << 20


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("operation", ["product", "gradient", "compiled"])
def test_the_host_dequantizes_panels(operation):
    """A process that multiplies by a weight of 128 MB of float32 never holds a large part of it."""
    script = f"""
import mlx.core as mx, resource
import mlx_dequant as mxd
packed = mxd.GGUFWeight(mx.zeros((8192, 4096 // 32 * 18), mx.uint8), "Q4_0")
small = mxd.GGUFWeight(mx.zeros((32, 18), mx.uint8), "Q4_0")
x, cotangent = mx.ones((40, 4096)), mx.ones((40, 8192))
work = {{
    "product": lambda packed, x, c: packed.linear(x),
    "gradient": lambda packed, x, c: mx.vjp(packed.linear, [x], [c])[1][0],
    "compiled": lambda packed, x, c: mx.compile(packed.linear)(x),
}}[{operation!r}]
with mxd.use_backend("host"):
    mx.eval(work(small, x[:, :32], cotangent[:, :32]), packed.arrays["blocks"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = work(packed, x, cotangent)
    mx.eval(found)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, mx.abs(found).max().item())
"""
    if "host" not in mxd.available_backends():
        pytest.skip("no C++ compiler was found")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    grown, largest = done.stdout.split()
    assert int(grown) < 24 << 10  # kilobytes
    assert float(largest) == 0
