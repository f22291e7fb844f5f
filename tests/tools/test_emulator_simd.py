"""Functions of a simdgroup, and its matrices."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import START, expect, launch, needs_compiler, numbers

pytestmark = needs_compiler
orders = pytest.mark.parametrize("order", emulator.ORDERS)

VALUES = ((numbers(110, np.int32) * 37 + 11) % 101).astype(np.int32)
LANES = np.r_[0:64, 0:46] % 32
# Two threadgroups of 64 and 46 threads: the last simdgroup has 14 lanes.
GROUPS = np.split(VALUES, [32, 64, 96])


def per_group(fold):
    return np.concatenate([np.broadcast_to(fold(group), group.shape) for group in GROUPS])


FOLDS = {
    "simd_sum(v)": np.sum,
    "simd_max(v)": np.max,
    "simd_min(v)": np.min,
    "simd_and(v)": np.bitwise_and.reduce,
    "simd_or(v)": np.bitwise_or.reduce,
    "simd_xor(v)": np.bitwise_xor.reduce,
    "int(simd_all(v > 1))": lambda group: int((group > 1).all()),
    "int(simd_any(v > 99))": lambda group: int((group > 99).any()),
    "simd_broadcast_first(v)": lambda group: group[0],
    "simd_broadcast(v, 5)": lambda group: group[5],
    "simd_prefix_inclusive_sum(v)": np.cumsum,
    "simd_prefix_exclusive_sum(v)": lambda group: np.cumsum(group) - group,
    "simd_product(v % 2 + 1)": lambda group: np.prod(group % 2 + 1, dtype=np.int32),
}


@orders
@pytest.mark.parametrize("call", FOLDS)
def test_folds(call, order):
    found = launch(
        START + f"int v = a[i]; out[i] = {call};", VALUES, threads=110, threadgroup=64, dtype=mx.int32, order=order
    )
    expect(found, per_group(FOLDS[call]))


def shuffled(source):
    """Each lane's value from lane `source`; all bits 1, so -1, where that lane is not there."""
    parts = []
    for group in GROUPS:
        padded = np.full(32, -1, np.int32)
        padded[: len(group)] = group
        parts.append(padded[source(np.arange(len(group)))])
    return np.concatenate(parts)


SHUFFLES = {
    "simd_shuffle(v, ushort(31 - lane))": lambda lane: 31 - lane,
    "simd_shuffle_xor(v, 9)": lambda lane: lane ^ 9,
    "simd_shuffle_up(v, 3)": lambda lane: np.where(lane < 3, lane, lane - 3),
    "simd_shuffle_down(v, 16)": lambda lane: np.where(lane + 16 > 31, lane, lane + 16),
}


@orders
@pytest.mark.parametrize("call", SHUFFLES)
def test_shuffles(call, order):
    found = launch(
        START + f"int v = a[i]; out[i] = {call};", VALUES, threads=110, threadgroup=64, dtype=mx.int32, order=order
    )
    expect(found, shuffled(SHUFFLES[call]))


@orders
def test_sum_of_a_row(order):
    """A matrix times a vector: simd_sum, then threadgroup memory."""
    body = """threadgroup float part[2];
    uint row = threadgroup_position_in_grid.x;
    uint local = thread_position_in_threadgroup.x;
    float sum = 0;
    for (uint k = local; k < 200; k += 64) sum = fma(float(a[row * 200 + k]), float(b[k]), sum);
    sum = simd_sum(sum);
    if (local % 32 == 0) part[local / 32] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (local == 0) out[row] = part[0] + part[1];"""
    rng = np.random.default_rng(1)
    matrix = rng.integers(-9, 9, (5, 200)).astype(np.float16)
    vector = rng.integers(-9, 9, 200).astype(np.float16)
    found = launch(body, matrix, vector, threads=320, threadgroup=64, size=5, order=order)
    expect(found, matrix.astype(np.float32) @ vector.astype(np.float32))


MATRICES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}


@orders
@pytest.mark.parametrize("dtype", MATRICES)
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_product(dtype, transposed, order):
    body = f"""simdgroup_matrix<{MATRICES[dtype]}, 8, 8> left, right;
    simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    threadgroup {MATRICES[dtype]} staged[64];
    uint lane = thread_position_in_threadgroup.x;
    for (uint k = 0; k < 16; k += 8) {{
      for (uint e = lane; e < 64; e += 32) staged[e] = a[e / 8 * 16 + k + e % 8];
      threadgroup_barrier(mem_flags::mem_threadgroup);
      simdgroup_load(left, staged, 8);
      simdgroup_load(right, b, {16 if transposed else 8}, {"ulong2(k, 0), true" if transposed else "ulong2(0, k)"});
      simdgroup_multiply_accumulate(sum, left, right, sum);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }}
    simdgroup_store(sum, out, 8);"""
    rng = np.random.default_rng(2)
    left = rng.integers(-9, 9, (8, 16)).astype(np.float32)
    right = rng.integers(-9, 9, (16, 8)).astype(np.float32)
    given = right.T.copy() if transposed else right
    found = launch(body, mx.array(left).astype(dtype), mx.array(given).astype(dtype), threads=32, size=64, order=order)
    expect(found, (left @ right + 1).reshape(-1))


def test_matrix_elements_of_a_lane():
    """Lane and place, as Apple's hardware has them and MLX's own kernels count on."""
    body = """simdgroup_float8x8 m;
    simdgroup_load(m, a, 8);
    uint i = thread_position_in_grid.x;
    out[2 * i] = m.thread_elements()[0];
    out[2 * i + 1] = m.thread_elements()[1];"""
    found = np.array(launch(body, numbers(64), threads=32, size=64)).astype(int)
    assert found[:8].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert found[16:18].tolist() == [4, 5]
    assert found[32:34].tolist() == [32, 33]
    assert sorted(found) == list(range(64))


def test_matrix_results_are_rounded_once():
    body = """simdgroup_half8x8 m;
    simdgroup_load(m, a, 8);
    simdgroup_multiply(m, m, m);
    simdgroup_store(m, out, 8);"""
    m = np.full((8, 8), 1 + 2.0**-10, np.float16)
    exact = (m.astype(np.float64) @ m.astype(np.float64)).astype(np.float16)
    expect(launch(body, m, threads=32, size=64, dtype=mx.float16), exact.reshape(-1))
