"""Weights past 2^31 and 2^32: nothing wraps. Memory that was never written takes no room."""

import ctypes
from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulator import device, launch
from product_cases import FORMATS
from sparse_weights import SparseWeight, sparse
from support import DTYPES, assert_same, bits, rounded

import mlx_dequant as mxd
from mlx_dequant import formats, launches
from mlx_dequant.backends.gpu import dequantize
from mlx_dequant.backends.gpu import launch as gpu
from mlx_dequant.backends.host import memory
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.backends.host.dequantize import write_region
from mlx_dequant.backends.host.library import library
from mlx_dequant.diagnostics import sample_weights

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler was found")
full = pytest.mark.full

# 2^36 weights: of every GGUF type more than 2^32 bytes.
ROWS, COLUMNS = 1 << 23, 1 << 13
FEW = ("q8_0", "q4_k", "awq4", "gptq3", "ct3")
names = pytest.mark.parametrize("name", [name if name in FEW else pytest.param(name, marks=full) for name in FORMATS])


def rows_of(name: str) -> int:
    """Rows of a matrix that has as many bytes as it may: of groups less than 2^32 words, and more than 2^32 weights."""
    bits = formats()[name].bits
    return ROWS >> bits.bit_length() - (bits in (2, 4, 8)) if bits else ROWS


def steps(matrix, out):
    """A function that does steps begin to end - 1 of dequantizing a matrix into `out`."""
    size = ctypes.c_size_t
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, size, size)
    run = kind(library(matrix, "dequantize", mx.float16).run)
    pointers, params = memory.pointers(matrix, out.ctypes.data), memory.packed_params(matrix.params())
    return lambda begin, end: run(pointers, params, begin, end)


@names
def test_the_host_reads_a_far_corner(name):
    sparse_weight = SparseWeight(name, rows_of(name), COLUMNS)
    matrix = sparse_weight.on_host()
    out = np.empty((sparse_weight.region.rows, sparse_weight.region.columns), np.float16)
    write_region(library(matrix, "dequantize", mx.float16), matrix, sparse_weight.region, out.ctypes.data)
    assert_same(mx.array(out), rounded(sparse_weight.expected(), mx.float16), name)


@names
def test_the_host_writes_a_far_corner(name):
    """The last rows of dequantizing it all, into an output of 2^34 weights that is never written whole."""
    sparse_weight = SparseWeight(name, ROWS // 4, COLUMNS)
    matrix = sparse_weight.on_host()
    out = sparse((matrix.rows, matrix.columns), np.float16)
    run = steps(matrix, out)
    run(matrix.rows - sparse_weight.region.rows, matrix.rows)
    corner = out[sparse_weight.region.first_row :, sparse_weight.region.first_column :]
    assert_same(mx.array(corner), rounded(sparse_weight.expected(), mx.float16), name)


@names
def test_a_kernel_reads_a_far_corner(name, monkeypatch):
    """A launch of the corner alone; the emulator hands the kernel the large arrays as they are."""
    sparse_weight = SparseWeight(name, rows_of(name), COLUMNS)
    argument, margins = device._argument, launch._margins
    large = {id(array) for array in sparse_weight.arrays.values()}
    monkeypatch.setattr(
        device,
        "_argument",
        lambda key, given: sparse_weight.arrays[key] if key in sparse_weight.arrays else argument(key, given),
    )
    monkeypatch.setattr(launch, "_margins", lambda buffer: () if id(buffer) in large else margins(buffer))
    with emulator.metal():
        sparse_weight.matrix.cache["gpu"] = gpu.device_arrays(sparse_weight.corner.matrix)
        found = dequantize.region("metal", sparse_weight.matrix, mx.float16, sparse_weight.region)
    assert_same(found, rounded(sparse_weight.expected(), mx.float16), name)


@pytest.mark.parametrize("name", ["q4_0", "gptq4", "ct3"])
def test_a_launch_of_too_many_threads_is_split(name):
    """A grid counts threads in 32 bits: here as if in 10."""
    rng = np.random.default_rng(1)
    weight = sample_weights.gguf(name, rng, 21, 64) if name == "q4_0" else sample_weights.groups(name, rng, 64, 64)
    with mxd.use_backend("reference"), np.errstate(all="ignore"):
        expected = bits(weight.dequantize(mx.float16))
    with patch.object(launches, "MAX_THREADS", 1024), emulator.metal():
        assert_same(weight.dequantize(mx.float16), expected, name)


def test_a_launch_that_cannot_be_split_is_refused():
    weight = sample_weights.gguf("q4_0", np.random.default_rng(1), 21, 64)
    with patch.object(launches, "MAX_THREADS", 1024), emulator.metal(), pytest.raises(ValueError, match="2048 threads"):
        weight.take(mx.zeros(256, mx.int32))


@full
@pytest.mark.usefixtures("host")
def test_a_real_one():
    """2^31 weights in 302 MB, through the package's own functions: look-ups, a matmul, and a stack of matrices."""
    rows, columns = 1 << 16, 1 << 15
    form = FORMATS["q1_0"]
    rng = np.random.default_rng(2)
    blocks = np.zeros((rows, columns // form.weights * form.bytes), np.uint8)
    written = [0, 1, rows // 2, rows - 2, rows - 1]
    some = rng.integers(0, 256, (len(written), columns // form.weights, form.bytes), np.uint8)
    some[:, :, :2] = np.array(rng.normal(size=some.shape[:2]), np.float16)[..., None].view(np.uint8)
    blocks[written] = some.reshape(len(written), -1)
    few = mxd.GGUFWeight(blocks[written], "Q1_0")
    with mxd.use_backend("reference"):
        expected = np.array(few.dequantize(mx.float32))
    packed = mx.array(blocks)
    del blocks
    weight = mxd.GGUFWeight(packed, "Q1_0")
    assert weight.size == 1 << 31
    for dtype in DTYPES:
        assert_same(weight.take(mx.array(written), dtype), rounded(expected, dtype), "take")
    hot = np.zeros((1, columns), np.float32)
    hot[0, -1] = 1
    found = np.array(weight.linear(mx.array(hot)))[0]
    assert np.array_equal(found[written], expected[:, -1])
    assert not np.delete(found, written).any()

    stack = mxd.GGUFWeight(packed, "Q1_0", shape=(4, rows // 4, columns))
    matrix = stack.matrix
    assert (matrix.rows, matrix.columns, matrix.size) == (rows, columns, 1 << 31)
    out = sparse(stack.shape, np.float16)
    run = steps(matrix, out)
    for at, row in enumerate(written):
        run(row, row + 1)
        found = out[row // (rows // 4), row % (rows // 4)]
        assert_same(mx.array(found), rounded(expected[at], mx.float16), f"row {row}")
