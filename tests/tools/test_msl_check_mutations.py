"""The check of Metal's rules sees mutations, and nothing where there is none."""

import pytest
from msl_check.check import BUFFERS, check, check_launch
from msl_check.mutations import MUTATIONS, OUTSIDE

SIGNATURE = """[[kernel]] void custom_kernel_k(
  const device uint8_t* w [[buffer(0)]],
  const constant float* few [[buffer(1)]],
  device float* out [[buffer(2)]],
  uint3 thread_position_in_grid [[thread_position_in_grid]]) {
"""

CLEAN_HEADER = """
#include <metal_simdgroup_matrix>
namespace mlx_dequant {
constant uint8_t table[4] = {1, 2, 3, 4};
struct source { device const uint8_t* p; uint n; };
template <typename T>
inline T read(thread const source& s, uint i) { return T(as_type<half>(ushort(s.p[i]))); }
inline float sum(threadgroup const float* s, uint n) {
  float total = 0.0f;
  for (uint i = 0; i < n; ++i) total += s[i];
  return simd_sum(total);
}
}
"""

CLEAN_BODY = """
threadgroup float shared[32];
mlx_dequant::source s = {w, 4};
uint i = thread_position_in_grid.x;
shared[i % 32] = mlx_dequant::read<float>(s, i) * few[0] + float(mlx_dequant::table[i % 4]);
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
simdgroup_load(m, shared, 8);
simdgroup_multiply_accumulate(m, m, m, m);
simdgroup_store(m, out, 8);
float4 v = float4(1.0f, 2.0f, 3.0f, 4.0f) * 2.0f;
*(device vec<half, 4>*)out = vec<half, 4>(v);
bfloat16_t b = bfloat16_t(max(v.x, 1.0f) + float(min(popcount(i), 3u)));
out[i] = mlx_dequant::sum(shared, 32) + float(b);
"""


def program(header: str, body: str) -> str:
    return f"{header}\n{SIGNATURE}{body}\n}}\n"


def assert_said(text: str, said: str) -> None:
    faults = check(text)
    assert any(said in fault for fault in faults), faults


def test_clean_program():
    assert check(program(CLEAN_HEADER, CLEAN_BODY)) == []
    assert check(program("", "")) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation(name):
    header, body, said = MUTATIONS[name]
    assert_said(program(f"namespace mlx_dequant {{\n{header}\n}}", f"using namespace mlx_dequant; {body}"), said)


@pytest.mark.parametrize("name", OUTSIDE)
def test_mutation_outside_the_namespace(name):
    header, body, said = OUTSIDE[name]
    assert_said(program(header, body), said)


def test_enough_mutations():
    assert len(MUTATIONS) + len(OUTSIDE) >= 40


def test_fault_names_the_file():
    text = program(
        '#line 7 "kernels/broken.metal"\nnamespace mlx_dequant { inline float f(float* p) { return *p; } }', ""
    )
    assert [fault.partition(":")[0] for fault in check(text)] == ["kernels/broken.metal"]
    assert check(text)[0].startswith("kernels/broken.metal:7: ")


@pytest.mark.parametrize(
    ("header", "body", "said"),
    [
        ("", "threadgroup float a[8193]; a[0] = 1.0f;", "32772 bytes of threadgroup memory"),
        ("", "threadgroup half a[8192], b[8193]; a[0] = b[0];", "32770 bytes of threadgroup memory"),
        ("constant float t[16385] = {};", "out[0] = t[w[0]];", "65540 bytes of tables"),
    ],
)
def test_memory_limits(header, body, said):
    assert_said(program(f"namespace mlx_dequant {{ {header} }}", f"using namespace mlx_dequant; {body}"), said)


def test_memory_within_limits():
    assert check(program("", "threadgroup float a[8192]; a[0] = 1.0f; out[0] = a[0];")) == []


@pytest.mark.parametrize("count", [BUFFERS, BUFFERS + 1])
def test_buffer_limit(count):
    parameters = ",\n".join(f"  device float* p{i} [[buffer({i})]]" for i in range(count))
    faults = check(f"[[kernel]] void custom_kernel_k(\n{parameters}) {{\n  p0[0] = 1.0f;\n}}\n")
    assert any("32 buffers" in fault for fault in faults) == (count > BUFFERS)
    assert len(faults) == (count > BUFFERS)


@pytest.mark.parametrize(
    ("grid", "threadgroup", "said"),
    [
        ((2048, 1, 1), (32, 33, 1), "1056 threads"),
        ((2048, 1, 1), (48, 1, 1), "whole SIMD groups"),
        ((2**31, 1, 1), (256, 1, 1), "along an axis"),
    ],
)
def test_launch_limits(grid, threadgroup, said):
    (fault,) = check_launch(grid, threadgroup)
    assert said in fault


def test_launch_within_limits():
    assert check_launch((2**31 - 256, 1, 1), (1024, 1, 1)) == []
