"""half, bfloat and vectors of the shim: conversions against NumPy, arithmetic rounded once."""

import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import expect, launch, needs_compiler
from support import assert_same, bits, rounded

pytestmark = needs_compiler

INDEX = "uint i = thread_position_in_grid.x;"


def floats():
    rng = np.random.default_rng(1)
    words = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    # Around every float16: itself, halfway to the next, and their neighbours.
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    near = [halves + np.uint32(k) for k in (0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001)]
    return np.concatenate([words, *near]).view(np.float32)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["half", "bfloat"])
@pytest.mark.parametrize("flush", [False, True])
def test_float_to_narrow(dtype, flush):
    values = floats()
    name = {mx.float16: "half", mx.bfloat16: "bfloat"}[dtype]
    body = f"{INDEX} out[i] = {name}(a[i]);"
    found = launch(body, values, threads=values.size, threadgroup=1024, dtype=dtype, flush=flush)
    assert_same(found, rounded(values, dtype))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["half", "bfloat"])
@pytest.mark.parametrize("flush", [False, True])
def test_narrow_to_float(dtype, flush):
    words = mx.arange(1 << 16).astype(mx.uint16)
    if dtype == mx.float16:
        exact = np.array(words.view(mx.float16)).astype(np.float32)
    else:
        exact = (np.array(words).astype(np.uint32) << 16).view(np.float32)
    found = launch(f"{INDEX} out[i] = float(a[i]);", words.view(dtype), threads=1 << 16, threadgroup=1024, flush=flush)
    assert_same(found, bits(exact))


@pytest.mark.parametrize("op", ["+", "-", "*", "/"])
def test_half_arithmetic_rounds_once(op):
    rng = np.random.default_rng(2)
    a = rng.integers(0, 1 << 16, 1 << 14, np.uint16).view(np.float16)
    b = rng.integers(0, 1 << 16, 1 << 14, np.uint16).view(np.float16)
    body = f"{INDEX} half x = a[i]; half y = b[i]; out[i] = x {op} y; x {op}= y; out[i + {a.size}] = x;"
    found = launch(body, a, b, threads=a.size, threadgroup=1024, size=2 * a.size, dtype=mx.float16)
    with np.errstate(all="ignore"):
        exact = eval(f"a {op} b", {"a": a, "b": b})
    assert_same(found, bits(np.concatenate([exact, exact])))


def test_half_meets_other_types():
    body = """half h = a[0];
    out[0] = float(h * 3);
    out[1] = h * 3.0f;
    out[2] = float(-h);
    out[3] = float(int(h * 1000));
    out[4] = h < 1 ? 1 : 0;
    out[5] = float(bfloat(h));"""
    a = np.full(8, 0.1, np.float16)
    h = np.float16(0.1)
    exact = [h * np.float16(3), np.float32(h) * 3, -h, int(h * np.float16(1000)), 1, 0.10009765625]
    expect(launch(body, a, threads=1, size=6), np.array(exact, np.float32))


def test_vectors():
    body = """float4 p = float4(1, 2, 3, 4);
    vec<half, 4> h = vec<half, 4>(p);
    device vec<half, 4>* to = (device vec<half, 4>*)out;
    to[0] = h * half(2) + vec<half, 4>(1);
    half2 pair = as_type<half2>(as_type<uint>(half2(h.w, h.x)));
    out[4] = pair.x;
    out[5] = pair[1];
    out[6] = half(dot(p, p));
    out[7] = half(float3(5).z);"""
    found = launch(body, threads=1, size=8, dtype=mx.float16)
    expect(found, [3, 5, 7, 9, 4, 1, 30, 5])


def test_functions():
    body = """out[0] = float(popcount(0xf0f0u) + clz(1u) * 100 + ctz(8u) * 10000);
    out[1] = metal::clamp(a[0], -1.0f, 1.0f) + metal::min(2.0f, a[1]) + metal::max(2.0f, a[1]);
    out[2] = select(1.0f, 2.0f, true) + metal::abs(-3.0f) + fma(2.0f, 3.0f, 4.0f);
    out[3] = metal::exp2(3.0f) + rsqrt(4.0f) + floor(1.5f) + ceil(1.5f) + rint(2.5f) + ldexp(1.0f, 4);"""
    found = launch(body, np.full(8, 9, np.float32), threads=1, size=4)
    expect(found, [8 + 3100 + 30000, 1 + 2 + 9, 2 + 3 + 10, 8 + 0.5 + 1 + 2 + 2 + 16])
