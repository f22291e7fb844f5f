"""The grid emulator: threads, threadgroups, barriers and memory."""

from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import START, expect, launch, needs_compiler, numbers
from emulator import build

pytestmark = needs_compiler
orders = pytest.mark.parametrize("order", emulator.ORDERS)

ATTRIBUTES = {
    "thread_position_in_grid": lambda x, y, z: (x, y, z),
    "threads_per_grid": lambda x, y, z: (7, 5, 3),
    "thread_position_in_threadgroup": lambda x, y, z: (x % 4, y % 2, z % 2),
    "threadgroup_position_in_grid": lambda x, y, z: (x // 4, y // 2, z // 2),
    "threads_per_threadgroup": lambda x, y, z: (3 if x > 3 else 4, 1 if y > 3 else 2, 1 if z > 1 else 2),
    "threadgroups_per_grid": lambda x, y, z: (2, 3, 2),
}


@orders
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_threads_know_where_they_are(attribute, order):
    body = f"""uint3 p = thread_position_in_grid;
    uint3 v = {attribute};
    out[p.x + 7 * (p.y + 5 * p.z)] = v.x + 100 * v.y + 10000 * v.z;"""
    found = launch(body, threads=(7, 5, 3), threadgroup=(4, 2, 2), dtype=mx.uint32, order=order)
    places = [(x, y, z) for z in range(3) for y in range(5) for x in range(7)]
    expect(found, [np.dot(ATTRIBUTES[attribute](*place), (1, 100, 10000)) for place in places])


def test_threads_know_their_simdgroup():
    body = """uint i = thread_position_in_grid.x;
    out[i] = thread_index_in_simdgroup + 100 * simdgroup_index_in_threadgroup
        + 1000 * simdgroups_per_threadgroup + 10000 * thread_index_in_threadgroup;"""
    found = launch(body, threads=110, threadgroup=70, dtype=mx.uint32)
    local = np.r_[0:70, 0:40]
    count = np.r_[np.full(70, 3), np.full(40, 2)]
    expect(found, local % 32 + 100 * (local // 32) + 1000 * count + 10000 * local)


def test_orders_differ():
    body = "out[0] = float(thread_position_in_grid.x);"
    last = [launch(body, threads=100, threadgroup=10, size=1, order=order).item() for order in emulator.ORDERS]
    assert last[:2] == [99, 0]
    seeds = {launch(body, threads=100, threadgroup=10, size=1, order="shuffled", seed=k).item() for k in range(9)}
    assert len(seeds) > 3


def test_outputs_are_nan_before():
    found = np.array(launch("if (thread_position_in_grid.x == 5) out[5] = 1;"))
    assert found[5] == 1
    assert np.isnan(np.delete(found, 5)).all()


@orders
def test_barrier(order):
    body = (
        START
        + """threadgroup float part[32];
    for (uint k = 0; k < 3; ++k) {
      part[local] = a[i] + float(k);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      out[i + 96 * k] = part[31 - local];
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }"""
    )
    found = launch(body, numbers(96), threads=96, threadgroup=32, size=288, order=order)
    turned = numbers(96).reshape(3, 32)[:, ::-1].reshape(-1)
    expect(found, np.concatenate([turned, turned + 1, turned + 2]))


def test_threadgroup_memory_is_nan_and_not_shared_between_threadgroups():
    body = START + "threadgroup float part[8]; out[i] = part[local]; part[local] = 1;"
    assert np.isnan(np.array(launch(body, threads=24, threadgroup=8))).all()


def test_threadgroup_memory_of_any_shape_and_through_a_macro():
    body = (
        START
        + """threadgroup uint one;
    threadgroup half square[4][8];
    SCRATCH(float, row, 8 * 4);
    if (local == 0) one = 100;
    square[local / 8][local % 8] = half(a[i]);
    row[local] = a[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup float* all = row;
    out[i] = float(one) + float(square[3 - local / 8][local % 8]) + all[local] * 1000;"""
    )
    header = "#define SCRATCH(type, name, count) threadgroup type name[count]\n"
    k = numbers(32)
    found = launch(body, k, threads=32, threadgroup=32, header=header)
    expect(found, 100 + k.reshape(4, 8)[::-1].reshape(-1) + 1000 * k)


def test_threadgroup_memory_ends_at_32_kib():
    body = START + "threadgroup float part[{}]; part[local] = 1; out[i] = part[local];"
    expect(launch(body.format(8192)), np.ones(64))
    with pytest.raises(emulator.EmulatorError, match="found 32772 bytes, expected at most 32768"):
        launch(body.format(8193))


def test_threadgroups_end_at_1024_threads():
    expect(launch("out[thread_position_in_grid.x] = 1;", threads=1024, threadgroup=1024), np.ones(1024))
    with pytest.raises(emulator.EmulatorError, match="expected 1 to 1024 threads"):
        launch("out[thread_position_in_grid.x] = 1;", threads=1025, threadgroup=1025)


def test_small_inputs_are_constant_and_shapes_come_along():
    header = """template <typename P>
    float second(P p) { return float(p[1]); }
    float third(constant float* p) { return p[2]; }"""
    body = """uint i = thread_position_in_grid.x;
    out[i] = second(a) + third(b) + c + float(a_shape[1]) * 100 + float(a_strides[0]) * 1000 + float(b_ndim) * 10000;"""
    a = mx.arange(12, dtype=mx.int32).reshape(2, 3, 2)
    b = mx.array([1.0, 2.0, 3.0])
    found = launch(body, a, b, mx.array(0.5), threads=1, header=header)
    expect(found, [1 + 3 + 0.5 + 300 + 6000 + 10000])


def test_inputs_are_made_contiguous():
    a = mx.arange(64, dtype=mx.float32).reshape(8, 8).T
    expect(launch("out[thread_position_in_grid.x] = a[thread_position_in_grid.x];", a), np.array(a).reshape(-1))


def test_flushing():
    body = "uint i = thread_position_in_grid.x; out[i] = a[i] * b[i];"
    a = np.full(8, 2.0**-126, np.float32)
    b = np.array([1, -1, 0.5, -0.5, 0.25, 1, 1, 1], np.float32)
    a[5:] = 2.0**-127, -(2.0**-149), 0
    exact = a * b
    expect(launch(body, a, b, threads=8), exact)
    expect(launch(body, a, b, threads=8, flush=True), [2.0**-126, -(2.0**-126), 0, 0, 0, 0, 0, 0])
    expect(launch(body, a, b, threads=8), exact)


def test_flushing_reaches_every_fiber():
    body = START + "simdgroup_barrier(mem_flags::mem_none); out[i] = a[i] * 0.5f;"
    expect(launch(body, np.full(64, 2.0**-126, np.float32), flush=True), np.zeros(64))


def test_objects_are_built_once():
    body = "out[thread_position_in_grid.x] = 7;"
    launch(body)
    build.program.cache_clear()
    with patch.object(build, "_compile", side_effect=AssertionError("compiled again")):
        expect(launch(body), np.full(64, 7))


def test_mistakes_of_the_text_are_the_compilers():
    with pytest.raises(build.BuildError, match="nowhere"):
        launch("out[0] = nowhere;")


def test_metal_is_there_only_inside():
    import mlx_dequant as mxd

    before = mxd.available_backends(), mxd.current_backend(), mx.fast.metal_kernel
    with emulator.metal():
        assert mxd.current_backend() == "metal"
        assert mxd.available_backends()[0] == "metal"
    assert (mxd.available_backends(), mxd.current_backend(), mx.fast.metal_kernel) == before
