"""Mutations, each of which the emulator must find: by itself or with a sanitizer."""

import emulator
import numpy as np
import pytest
from emulated_kernels import START, expect, launch, needs_compiler, numbers

pytestmark = needs_compiler

TURN = (
    START
    + """threadgroup float part[{size}];
part[local] = a[i];
{barrier}
out[i] = part[63 - local];"""
)
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def turn(barrier=BARRIER, size=64):
    return TURN.format(barrier=barrier, size=size)


# Body and what is said of it, with the line of the body. START has three lines.
DIVERGENCE = {
    "barrier in a branch": (
        turn(f"if (i < 32) {BARRIER}"),
        r"32 of 64 threads returned, others wait at threadgroup_barrier \(body:6\)",
    ),
    "return before a barrier": (turn(f"if (i > 40) return; {BARRIER}"), r"23 of 64 threads returned"),
    "two barriers for one": (
        turn(f"if (i < 32)\n{BARRIER}\nelse\n{BARRIER}"),
        r"threads diverge: some wait at threadgroup_barrier \(body:[79]\), others at threadgroup_barrier \(body:[79]\)",
    ),
    "simd function in a branch": (
        START + "float s = 0;\nif (lane < 8) s = simd_sum(a[i]);\nout[i] = s;",
        r"others wait at simd_sum \(body:5\)",
    ),
    "return before a simd function": (
        START + "if (i > 40) return;\nout[i] = simd_sum(a[i]);",
        r"55 of 64 threads returned, others wait at simd_sum \(body:5\)",
    ),
    "two simd functions for one": (
        START + "if (lane < 8) out[i] = simd_sum(a[i]); else out[i] = simd_max(a[i]);",
        "simd_sum .* simd_max|simd_max .* simd_sum",
    ),
    "simdgroup matrix in a branch": (
        START + "simdgroup_float8x8 m(0.0f);\nif (lane > 0) simdgroup_store(m, out, 8);",
        "others wait at simdgroup_store",
    ),
    "barrier in a loop of uneven length": (
        START + f"for (uint k = 0; k < lane; ++k) {BARRIER}\nout[i] = 0;",
        "others wait at threadgroup_barrier",
    ),
}


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("mutation", DIVERGENCE)
def test_divergence(mutation, order):
    body, said = DIVERGENCE[mutation]
    with pytest.raises(emulator.EmulatorError, match=said):
        launch(body, numbers(64), order=order)


def test_uniform_control_flow_is_no_divergence():
    body = START + f"if (threadgroup_position_in_grid.x == 1) {{ {BARRIER} out[i] = simd_sum(a[i]); }} else out[i] = 0;"
    found = np.array(launch(body, numbers(64), threadgroup=32))
    expect(found, [0] * 32 + [numbers(64)[32:].sum()] * 32)


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_missing_barrier_shows_in_the_result(order):
    expect(launch(turn(), numbers(64), order=order), numbers(64)[::-1])
    assert np.isnan(np.array(launch(turn(barrier=""), numbers(64), order=order))).any()


def test_writes_outside_of_a_buffer():
    with pytest.raises(emulator.EmulatorError, match="buffer 1: written outside of its 256 bytes"):
        launch(START + "out[i + 1] = a[i];", numbers(64))
    with pytest.raises(emulator.EmulatorError, match="threadgroup memory: written outside of its 252 bytes"):
        launch(turn(size=63), numbers(64))


def watched(sanitizer):
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    return sanitizer


TABLE = "constant float table[4] = {1, 2, 3, 4};\n"
STACK = START + "float w[4];\nfor (uint k = 0; k < 4; ++k) w[k] = a[i];\nthread float* p = w;\n"

# Header, body and what AddressSanitizer or UndefinedBehaviorSanitizer says of it.
ADDRESS = {
    "device read after the end": ("", START + "out[i] = a[i + 1];", "AddressSanitizer"),
    "device read before the start": ("", START + "out[i] = a[int(i) - 1];", "AddressSanitizer"),
    "device write after the end": ("", START + "out[i + 1] = a[i];", "AddressSanitizer"),
    "device read of a byte too many": (
        "",
        START + "out[i] = float(((device const uchar*)a)[i == 63 ? 256 : i]);",
        "AddressSanitizer",
    ),
    "threadgroup memory": (
        "",
        START + "threadgroup float part[63];\npart[0] = 1;\nthreadgroup float* p = part;\nout[i] = p[local];",
        "AddressSanitizer|insufficient space",
    ),
    "stack": ("", STACK + "out[i] = p[i % 8];", "AddressSanitizer|insufficient space"),
    "stack after a barrier": ("", STACK + BARRIER + "\nout[i] = p[i % 8];", "AddressSanitizer|insufficient space"),
    "table": (TABLE, START + "constant float* p = table;\nout[i] = p[i % 8];", "AddressSanitizer|insufficient space"),
    "misaligned vector": (
        "",
        START + "if (i < 8) *(device float4*)(out + i) = float4(1.0f);\n",
        "misaligned address",
    ),
    "misaligned vector read": (
        "",
        START + "float4 v = *(device const float4*)(a + i % 60);\nout[i] = v.x;",
        "misaligned address",
    ),
    "misaligned word": ("", START + "out[i] = float(*(device const uint*)((device const uchar*)a + i));", "misaligned"),
    "shift too far": ("", START + "out[i] = float(1u << i);", "shift exponent 32 is too large"),
    "float to int": ("", START + "out[i] = float(int(a[i] * 1e9f));", "outside the range of representable"),
    "signed overflow": ("", START + "out[i] = float(int(i) * 2000000000);", "signed integer overflow"),
}


@pytest.mark.parametrize("mutation", ADDRESS)
def test_address_sanitizer(mutation):
    header, body, said = ADDRESS[mutation]
    with pytest.raises(emulator.EmulatorError, match=said):
        launch(body, numbers(64), header=header, sanitizer=watched("address"))


# Bodies with races. No result need differ for ThreadSanitizer to find them.
RACES = {
    "missing barrier": turn(barrier=""),
    "barrier of the simdgroup alone": turn("simdgroup_barrier(mem_flags::mem_threadgroup);"),
    "barrier without memory": turn("threadgroup_barrier(mem_flags::mem_none);"),
    "simd function for a barrier": turn("simd_sum(a[i]);"),
    "missing barrier before the next write": START
    + f"""threadgroup float part[64];
    for (uint k = 0; k < 2; ++k) {{
      part[local] = a[i];
      {BARRIER}
      out[i] = part[63 - local];
    }}""",
    "two threads write one result": START + "out[i / 2] = a[i];",
    "two threadgroups write one result": START + "if (local == 0) out[0] = a[i];",
}


@pytest.mark.parametrize("mutation", RACES)
def test_thread_sanitizer(mutation):
    with pytest.raises(emulator.EmulatorError, match="data race"):
        launch(RACES[mutation], numbers(128), threads=128, sanitizer=watched("thread"))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("order", emulator.ORDERS)
def test_sound_kernels_pass(sanitizer, order):
    body = (
        START
        + f"""threadgroup float part[64];
    threadgroup float sums[2];
    for (uint k = 0; k < 3; ++k) {{
      {BARRIER}
      part[local] = a[i];
      {BARRIER}
      float s = simd_sum(part[63 - local]);
      if (lane == 0) sums[local / 32] = s;
    }}
    {BARRIER}
    out[i] = sums[0] + sums[1];"""
    )
    found = launch(body, numbers(128), threads=128, order=order, sanitizer=watched(sanitizer))
    expect(found, numbers(128).reshape(2, 64).sum(1).repeat(64))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_divergence_is_told_under_a_sanitizer(sanitizer):
    body, said = DIVERGENCE["return before a simd function"]
    with pytest.raises(emulator.EmulatorError, match=said):
        launch(body, numbers(64), sanitizer=watched(sanitizer))
