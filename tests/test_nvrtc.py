"""Every CUDA program that the package can launch compiles: with clang here, with NVRTC where its wheels are."""

import mlx.core as mx
import pytest
from strict import nvrtc
from strict.cuda import cuda_faults
from strict.launches import record

from mlx_dequant.programs import KERNELS
from mlx_dequant.registry import formats

CLEAN = """
#include "mlx/backend/cuda/device/utils.cuh"
inline float twice(const float* x) { return 2.0f * x[0]; }
__global__ void custom_kernel_k(const __half* x, float* out) {
  __shared__ float shared[32];
  shared[threadIdx.x % 32] = float(x[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = twice(shared) + __shfl_xor_sync(0xffffffff, shared[1], 16);
}
"""
MISTAKES = {
    "unknown name": ("float(x[threadIdx.x])", "float(x[thread_index])"),
    "half times float is ambiguous": ("float(x[threadIdx.x])", "x[threadIdx.x] * 2.0f"),
    "input written": ("float(x[threadIdx.x])", "(x[0] = x[1], 1.0f)"),
    "shared memory with a value": ("shared[32];", "shared[32] = {1.0f};"),
    "missing semicolon": ("__syncthreads();", "__syncthreads()"),
}

needs_nvrtc = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())


@pytest.mark.parametrize("name", formats())
def test_programs_pass_clang(name):
    recorded = record("cuda", formats()[name])
    assert recorded.kernels == set(KERNELS)
    for text in recorded.texts():
        assert cuda_faults(text) == []


@pytest.mark.full
@needs_nvrtc
@pytest.mark.parametrize("name", formats())
def test_programs_pass_nvrtc(name):
    for text in record("cuda", formats()[name]).texts():
        assert nvrtc.compiled(text) == ""


@pytest.mark.full
@needs_nvrtc
@pytest.mark.parametrize("name", ["q8_0", "awq4"])
def test_older_processors_have_tiles(name):
    """Before sm_80 there are no products of 16 x 16 factors to call."""
    (text,) = (one for one in record("cuda", formats()[name], (mx.float16,)).texts() if "product_tiled<" in one)
    assert nvrtc.compiled(text, "sm_75") == ""


@pytest.mark.parametrize("name", MISTAKES)
def test_clang_sees_mistake(name):
    assert cuda_faults(CLEAN) == []
    assert cuda_faults(CLEAN.replace(*MISTAKES[name])) != []


@pytest.mark.full
@needs_nvrtc
@pytest.mark.parametrize("name", MISTAKES)
def test_nvrtc_sees_mistake(name):
    assert nvrtc.compiled(CLEAN) == ""
    assert "error" in nvrtc.compiled(CLEAN.replace(*MISTAKES[name]))
