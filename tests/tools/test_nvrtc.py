"""Every CUDA kernel that the package can launch compiles: with clang here, with NVRTC where its wheels are."""

import mlx.core as mx
import pytest
from msl_check import nvrtc
from msl_check.cuda import cuda_faults
from msl_check.launches import record, typed
from product_cases import FAMILIES, TRAITS
from specs import every_spec

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
MUTATIONS = {
    "unknown name": ("float(x[threadIdx.x])", "float(x[thread_index])"),
    "half times float is ambiguous": ("float(x[threadIdx.x])", "x[threadIdx.x] * 2.0f"),
    "input written": ("float(x[threadIdx.x])", "(x[0] = x[1], 1.0f)"),
    "shared memory with a value": ("shared[32];", "shared[32] = {1.0f};"),
    "missing semicolon": ("__syncthreads();", "__syncthreads()"),
}
# Devices and what NVRTC is told of them: qmm takes instructions that Hopper alone has.
ARCHITECTURES = {80: "sm_80", 90: "sm_90a"}

full = pytest.mark.full
needs_nvrtc = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())


# What matrix units multiply in float16, others do in float32.
TYPED = typed(mx.float16, mx.float32)


def cases(*generations):
    """In `make test` formats that have all that programs distinguish, and few of them on older GPUs."""
    for case in TYPED:
        for known in generations:
            quick = TRAITS if known == 90 else FAMILIES
            marks = () if case.values[0] in quick else (full,)
            yield pytest.param(*case.values, known, id=f"{case.id}-{known}", marks=(*case.marks, *marks))


@pytest.mark.parametrize(("name", "pairs", "known"), list(cases(*ARCHITECTURES)))
def test_programs_pass_clang(name, pairs, known):
    for text in record("cuda", formats()[name], pairs, (known,)).texts():
        assert cuda_faults(text) == []


@pytest.mark.parametrize(("name", "pairs", "older"), list(cases(80)))
def test_every_spec_is_a_program(name, pairs, older):
    found = [record("cuda", formats()[name], pairs, (known,)).specs for known in (older, 90)]
    assert set().union(*found) == every_spec("cuda", formats()[name])


@full
@needs_nvrtc
@pytest.mark.parametrize("generation", ARCHITECTURES)
@pytest.mark.parametrize("name", formats())
def test_programs_pass_nvrtc(name, generation):
    for text in record("cuda", formats()[name], generations=(generation,)).texts():
        assert nvrtc.compiled(text, ARCHITECTURES[generation]) == ""


@pytest.mark.parametrize("name", MUTATIONS)
def test_clang_sees_mutation(name):
    assert cuda_faults(CLEAN) == []
    assert cuda_faults(CLEAN.replace(*MUTATIONS[name])) != []


@full
@needs_nvrtc
@pytest.mark.parametrize("name", MUTATIONS)
def test_nvrtc_sees_mutation(name):
    assert nvrtc.compiled(CLEAN) == ""
    assert "error" in nvrtc.compiled(CLEAN.replace(*MUTATIONS[name]))
