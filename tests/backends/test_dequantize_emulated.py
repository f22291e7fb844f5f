"""Every format's Metal kernel, as MLX generates it, executed: the bits are the reference's.

The whole launch in Python is part of it: grid, threadgroups, launch parameters, small inputs.
"""

import platform
from pathlib import Path

import emulator
import mlx.core as mx
import numpy as np
import pytest
from product_cases import TRAITS, by_traits
from support import (
    DTYPES,
    GGUF_TYPES,
    GROUP_SETS,
    assert_same,
    bits,
    each_with_one,
    gguf_fixture,
    group_fixture,
    rounded,
)

import mlx_dequant as mxd
from mlx_dequant.backends.gpu import dequantize
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.diagnostics.sample_weights import GGUF_FORMATS, GROUP_FORMATS
from mlx_dequant.encoded import Region

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")

NAMES = [str(dtype).removeprefix("mlx.core.") for dtype in DTYPES]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)


def reference(weight):
    with mxd.use_backend("reference"), np.errstate(all="ignore"):
        return np.array(weight.dequantize(mx.float32))


def check(weight, dtype, **options):
    """In every order, the emulator's bits are those of the reference, rounded once.

    No thread waits for another here, which leaves little to the order: two of four, but for `TRAITS`.
    """
    expected = rounded(reference(weight), dtype)
    for order in emulator.ORDERS if weight.format.name in TRAITS else ("forward", "shuffled"):
        with emulator.metal(order=order, **options):
            assert_same(weight.dequantize(dtype), expected, f"{weight} {order}")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # The type that `test_gguf_of_random_bytes` has not, so that a format has two in `make test`.
        pytest.param(
            name, dtype, marks=() if name in TRAITS or i == (GGUF_FORMATS.index(name) + 1) % 3 else pytest.mark.full
        )
        for name in GGUF_TYPES
        for i, dtype in enumerate(DTYPES)
    ],
)
def test_gguf_fixtures(name, dtype):
    for part, (blocks, expected) in gguf_fixture(name).items():
        weight = mxd.GGUFWeight(blocks, name)
        for order in emulator.ORDERS:
            with emulator.metal(order=order):
                assert_same(weight.dequantize(dtype), rounded(expected, dtype), f"{part} {order}")


@pytest.mark.parametrize("name", GROUP_SETS)
def test_group_fixtures(name):
    weight, expected = group_fixture(name)
    for order in emulator.ORDERS:
        with emulator.metal(order=order):
            assert_same(weight.dequantize(), bits(expected), order)


@pytest.mark.parametrize(("name", "dtype"), each_with_one(GGUF_FORMATS, DTYPES))
def test_gguf_of_random_bytes(name, dtype):
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 1), (9, 257), (3, 520)):
        check(sample_weights.gguf(name, rng, rows, columns), dtype)


@dtypes
@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_gguf_rows_of_any_length(name, dtype):
    rng = np.random.default_rng(2)
    for rows, columns in ((1, 3), (2, 7), (9, 13), (1, 263)):
        check(sample_weights.gguf(name, rng, rows, columns), dtype)


def pairs():
    """Types of scales and of results: each with each, in `make test` each with another, but for one format."""
    for at, name in enumerate(GROUP_FORMATS):
        for i, scales in enumerate(DTYPES):
            for k, dtype in enumerate(DTYPES):
                fast = name == "gptq4" or k == (i + at) % 3
                yield pytest.param(
                    name, scales, dtype, id=f"{name}-{NAMES[i]}-{NAMES[k]}", marks=() if fast else pytest.mark.full
                )


@pytest.mark.parametrize(("name", "scales", "dtype"), list(pairs()))
def test_groups_of_random_bits(name, scales, dtype):
    rng = np.random.default_rng(3)
    for inputs, outputs in ((9, 32), (32, 264), (70, 1), (3, 2)):
        check(sample_weights.groups(name, rng, inputs, outputs, scales=scales), dtype)


@pytest.mark.parametrize("name", [name for name in GROUP_FORMATS if name.startswith("ct")])
def test_compressed_tensors_rows_of_any_length(name):
    rng = np.random.default_rng(4)
    for inputs, outputs in ((1, 1), (5, 1), (13, 9), (263, 2), (520, 9)):
        for zeros in ("stored", "none"):
            for g_idx in ("", "uneven"):
                weight = sample_weights.groups(name, rng, inputs, outputs, zeros=zeros, g_idx=g_idx)
                check(weight, mx.float16)


@pytest.mark.parametrize("name", GROUP_FORMATS)
def test_regions_of_any_rows(name):
    """Rows that a thread decodes together begin at a multiple of their number; a region may begin and end elsewhere."""
    rng = np.random.default_rng(12)
    for g_idx in ("", "uneven") if name != "awq4" else ("",):
        weight = sample_weights.groups(name, rng, 128, 128, g_idx=g_idx)
        expected = rounded(reference(weight), mx.float16)
        for first, end in ((0, 3), (1, 2), (3, 21), (8, 23), (30, 64), (127, 128)):
            part = Region(first, end, 32, 100)
            with emulator.metal():
                found = dequantize.region("metal", weight.matrix, mx.float16, part)
            assert_same(found, expected[first:end, 32:100], f"{weight} {part}")


@pytest.mark.parametrize("group_size", [-1, 3, 8, 48])
@pytest.mark.parametrize("name", GROUP_FORMATS)
def test_group_sizes(name, group_size):
    rng = np.random.default_rng(5)
    check(sample_weights.groups(name, rng, 100, 64, group_size), mx.float16)


@pytest.mark.parametrize("name", [name for name in GROUP_FORMATS if name != "awq4"])
def test_act_order(name):
    rng = np.random.default_rng(6)
    check(sample_weights.groups(name, rng, 100, 64, g_idx="uneven"), mx.float16)


@pytest.mark.parametrize("zeros", ["v1", "v1-field", "v2"])
@pytest.mark.parametrize("name", [name for name in GROUP_FORMATS if name.startswith("gptq")])
def test_zero_points(name, zeros):
    rng = np.random.default_rng(7)
    check(sample_weights.groups(name, rng, 64, 64, zeros=zeros), mx.float16)


# Of these every type: scales of scales, far ones, of several words, none.
FLUSHED = ("q4_k", "mxfp4", "iq1_m", "f16")


def check_flushed(weight, dtype, exact):
    """Flushing changes no bit, but where the float32 result is itself subnormal: that may be zero.

    float16 results have no such exception: the float32 value below a float16 is normal.
    """
    expected = rounded(exact, dtype)
    with emulator.metal(flush=True):
        found = weight.dequantize(dtype)
    tiny = (exact != 0) & (np.abs(exact) < np.finfo(np.float32).tiny)
    if dtype != mx.float16 and tiny.any():
        sign = np.array(1 << 8 * dtype.size - 1, expected.dtype)
        ours = bits(found)
        expected = np.where(tiny & (ours == expected & sign), ours, expected)
    assert_same(found, expected, str(weight))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if name in FLUSHED or i == at % 3 else pytest.mark.full)
        for at, name in enumerate(GGUF_FORMATS)
        for i, dtype in enumerate(DTYPES)
    ],
)
def test_flushing_gguf(name, dtype):
    rng = np.random.default_rng(8)
    weight = sample_weights.gguf(name, rng, 9, 1024)
    check_flushed(weight, dtype, reference(weight))
    for blocks, expected in gguf_fixture(name).values() if name in GGUF_TYPES else ():
        check_flushed(mxd.GGUFWeight(blocks, name), dtype, expected)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        pytest.param(name, scales, marks=() if scales == mx.float16 or i == at % 3 else pytest.mark.full)
        for at, name in enumerate(GROUP_FORMATS)
        for i, scales in enumerate(DTYPES)
    ],
)
def test_flushing_groups(name, scales):
    # Scales of bfloat16 and float32 are normal here: a GPU that flushes has no others.
    rng = np.random.default_rng(9)
    weight = sample_weights.groups(name, rng, 64, 64, scales=scales, plain=scales != mx.float16)
    check_flushed(weight, scales, reference(weight))


def contraction():
    """Flags that let the compiler fuse products and sums; x86 has to be told that it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ("-O3", "-ffp-contract=fast")
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or " fma " not in flags.read_text():
        pytest.skip("this processor is not known to fuse products and sums")
    return ("-O3", "-ffp-contract=fast", "-mfma")


def test_contraction_is_real():
    body = "out[thread_position_in_grid.x] = x[0] * x[1] + x[2];"
    x = mx.array([1 + 2**-12, 1 + 2**-12, -1 - 2**-11] + [0] * 5, mx.float32)
    results = []
    for flags in ((), contraction()):
        kernel = emulator.kernel(
            emulator.Options(flags=flags), name="fused", input_names=["x"], output_names=["out"], source=body
        )
        (out,) = kernel(
            inputs=[x], output_shapes=[(1,)], output_dtypes=[mx.float32], grid=(1, 1, 1), threadgroup=(1, 1, 1)
        )
        results.append(out.item())
    assert results == [0, 2**-24]


# Those that add to a product, or multiply twice.
FUSED = (*TRAITS, "q2_k", "nvfp4", "iq1_m", "iq4_xs", "tq1_0")


@pytest.mark.parametrize("name", by_traits(GGUF_FORMATS, FUSED))
def test_contraction_changes_no_gguf_weight(name):
    flags = contraction()
    check(sample_weights.gguf(name, np.random.default_rng(10), 9, 1024), mx.float32, flags=flags)
    for blocks, _ in gguf_fixture(name).values() if name in GGUF_TYPES else ():
        check(mxd.GGUFWeight(blocks, name), mx.float32, flags=flags)


@pytest.mark.parametrize("name", by_traits(GROUP_FORMATS))
def test_contraction_changes_no_group_weight(name):
    rng = np.random.default_rng(11)
    check(sample_weights.groups(name, rng, 64, 64), mx.float32, flags=contraction())
