"""Every format's CUDA kernels, as MLX generates them, executed: the bits are the reference's, products near exact."""

from functools import cache

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import mostly_full, planted, some_full
from emulated_kernels import needs_compiler
from product_cases import SIZES, by_traits, check_products, weight
from support import DTYPES, GGUF_TYPES, assert_same, each_with_one, gguf_fixture, rounded

import mlx_dequant as mxd
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.diagnostics.sample_weights import GGUF_FORMATS, GROUP_FORMATS

pytestmark = needs_compiler
full = pytest.mark.full


@cache
def reference(weight):
    """[out, in] float32."""
    with mxd.use_backend("reference"), np.errstate(all="ignore"):
        dense = np.array(weight.dequantize(mx.float32))
    return dense.T if weight.matrix.layout == "KN" else dense


def check_dequantizing(weights, dtypes=DTYPES, **options):
    """Weights of one format, dequantized and looked up, in each type."""
    cases = [(weight, dtype) for weight in weights for dtype in dtypes]

    def found():
        return [(one.dequantize(dtype), one.take(ids(one), dtype)) for one, dtype in cases]

    with emulator.cuda(found, flags=("-O0",), **options):  # compiling takes longer than running
        results = found()
    for (one, dtype), (dense, rows) in zip(cases, results, strict=True):
        exact = reference(one)
        assert_same(dense, rounded(exact.T if one.matrix.layout == "KN" else exact, dtype), f"{one} {dtype}")
        assert_same(rows, rounded(exact[np.array(ids(one))], dtype), f"take {one} {dtype}")


def ids(weight):
    return mx.array([0, -1, weight.out_features // 2])


@pytest.mark.parametrize("name", by_traits(GGUF_FORMATS))
def test_gguf(name):
    rng = np.random.default_rng(1)
    sizes = ((1, 1), (9, 257), (3, 520), *(((2, 7), (1, 263)) if name in ("f32", "f16", "bf16") else ()))
    fixtures = gguf_fixture(name).values() if name in GGUF_TYPES else ()
    check_dequantizing(
        [sample_weights.gguf(name, rng, *size) for size in sizes]
        + [mxd.GGUFWeight(blocks, name) for blocks, _ in fixtures]
    )


@pytest.mark.parametrize(("name", "scales"), each_with_one(GROUP_FORMATS, DTYPES))
def test_groups(name, scales):
    rng = np.random.default_rng(2)
    weights = [
        sample_weights.groups(name, rng, inputs, outputs, group_size, scales)
        for inputs, outputs, group_size in ((9, 32, 16), (32, 264, -1), (70, 1, 3), (3, 2, 16), (100, 64, 48))
    ]
    if name.startswith("gptq"):
        weights += [
            sample_weights.groups(name, rng, 64, 64, zeros=zeros, scales=scales) for zeros in ("v1-field", "v2")
        ]
    if name.startswith("ct"):
        weights += [
            sample_weights.groups(name, rng, *size, zeros="none", scales=scales)
            for size in ((1, 1), (5, 1), (13, 9), (263, 2), (520, 9))
        ]
        weights += [sample_weights.groups(name, rng, 13, 9, g_idx="uneven", zeros="none", scales=scales)]
    if name != "awq4":
        weights += [sample_weights.groups(name, rng, 100, 64, g_idx="uneven", scales=scales)]
    check_dequantizing(weights)


@pytest.mark.parametrize("rows", mostly_full((1, 7, 17), fast=1))
@pytest.mark.parametrize("name", mostly_full(mxd.formats(), fast="q4_k"))
def test_products(name, rows):
    with emulator.cuda():
        for at, size in enumerate(SIZES):
            check_products(weight(name, size), DTYPES[(at + rows) % 3], rows, seed=rows)


@pytest.mark.parametrize("name", mostly_full(mxd.formats(), fast="mxfp4"))
def test_no_read_leaves_a_buffer(name, watched):
    for size in SIZES:
        check_dequantizing([weight(name, size)], [mx.float16], **watched)


@full
@pytest.mark.parametrize("rows", [2, 17])
@pytest.mark.parametrize("name", mxd.formats())
def test_no_read_of_a_product_leaves_a_buffer(name, rows, watched):
    with emulator.cuda(**watched):
        check_products(weight(name), mx.float16, rows)


def run(body, *inputs, size=1, dtype=mx.uint32, shared_memory=0, **options):
    """`out` of a kernel with inputs `a`, `b`, ... of one threadgroup, a thread for each of `size` elements."""
    names = list("abcdef"[: len(inputs)])
    with emulator.cuda(**options):
        kernel = mx.fast.cuda_kernel(
            name="test",
            input_names=names,
            output_names=["out"],
            source=body,
            header="",
            shared_memory=shared_memory,
        )
        (out,) = kernel(
            inputs=[mx.array(one) for one in inputs],
            output_shapes=[(size,)],
            output_dtypes=[dtype],
            grid=(size, 1, 1),
            threadgroup=(size, 1, 1),
        )
    return np.array(out)


def test_bytes_are_permuted_by_three_bits_of_a_selector():
    selectors = np.array([0x3210, 0x7654, 0x0040, 0x7531, 0xBA98, 0xFEDC, 0x12345670], np.uint32)
    found = run("out[threadIdx.x] = __byte_perm(0xb3a29180, 0x77665544, a[threadIdx.x]);", selectors, size=7)
    expected = [0xB3A29180, 0x77665544, 0x80804480, 0x7755B391, 0xB3A29180, 0x77665544, 0x55667780]
    assert [hex(one) for one in found] == [hex(one) for one in expected]


# A format that shows it, what is planted, and what is said.
DEQUANTIZING = {
    "a sign for a byte": (
        "nvfp4",
        "(code >> 3 & 0x01010101) * 255",
        "__byte_perm(code << 4, 0, 0xba98)",
        "values differ",
    ),
    "another selector": ("iq4_xs", "0x4420", "0x4402", "differ"),
    "another offset": ("q4_k", "__byte_perm(word, 0x4b000000", "__byte_perm(word, 0x4a000000", "differ"),
    "bits of another field": ("q2_0", "* 0x41 &", "* 0x21 &", "differ"),
    "halves exchanged": ("f16", "as_type<ushort>(high)", "as_type<ushort>(low)", "differ"),
    "another shift": ("mxfp4", "skipped * 8", "skipped * 4", "differ"),
    "rounding down": ("q4_1", "T low = T(w[i + 2 * k]);", "T low = T(w[i + 2 * k] * 0.999f);", "differ"),
    "store not aligned": ("f32", "if (aligned)", "if (true)", r"misaligned address \(platform/cuda.h:\d+\)"),
    "load not aligned": (
        "q8_0",
        "if (ALIGN % 16 == 0)",
        "if (ALIGN % 2 == 0)",
        r"misaligned address \(platform/cuda.h:\d+\)",
    ),
}
PRODUCTS = {
    "half of the lanes": ("q4_k", "lane = 16; lane > 0", "lane = 8; lane > 0"),
    "no barrier": ("gptq4", "__syncthreads();", ";"),
    "no wait for a table": ("iq2_xs", "table)[i];\n  }\n  __syncthreads();", "table)[i];\n  }"),
    "part of a table": ("iq3_s", "i < WORDS / 4;", "i < WORDS / 8;"),
}


@pytest.mark.parametrize(
    "mutation", some_full(DEQUANTIZING, ("a sign for a byte", "halves exchanged", "load not aligned"))
)
def test_mutations_of_dequantize(mutation):
    if "aligned" in mutation and "ziglang" in compiler().command:
        pytest.skip("ziglang checks no alignment")
    name, text, wrong, said = DEQUANTIZING[mutation]
    rng = np.random.default_rng(3)
    with planted(text, wrong), pytest.raises((AssertionError, emulator.EmulatorError), match=said):
        check_dequantizing([sample_weights.gguf(name, rng, 2, columns) for columns in (13, 64)])


@pytest.mark.parametrize("mutation", some_full(PRODUCTS, ("half of the lanes", "part of a table")))
def test_mutations_of_products(mutation):
    name, text, wrong = PRODUCTS[mutation]
    with planted(text, wrong), emulator.cuda(), pytest.raises(AssertionError, match="the largest error is"):
        check_products(weight(name, SIZES[0]), mx.float16, 2)


SHARED = "extern __shared__ __align__(1024) unsigned words[];\n"


def test_shared_memory_is_as_large_as_a_launch_says():
    body = SHARED + "unsigned i = threadIdx.x;\nwords[i] = a[i];\n__syncthreads();\nout[i] = words[7 - i];"
    numbers = np.arange(8, dtype=np.uint32)
    assert list(run(body, numbers, size=8, shared_memory=227 * 1024)) == list(numbers[::-1])
    with pytest.raises(emulator.EmulatorError, match="written outside of its 28 bytes"):
        run(body, numbers, size=8, shared_memory=28)
    with pytest.raises(emulator.EmulatorError, match="found 232452 bytes, expected at most 232448"):
        run(body, numbers, size=8, shared_memory=227 * 1024 + 4)


def test_an_instruction_that_nobody_knows():
    with pytest.raises(emulator.EmulatorError, match="no such instruction here: bar"):
        run('asm volatile("bar.sync 0;" : : : "memory");')


def test_a_read_outside_of_a_buffer(watched):
    words = np.arange(8, dtype=np.uint32)
    assert run("out[0] = a[7];", words, **watched) == 7
    with pytest.raises(emulator.EmulatorError, match="AddressSanitizer"):
        run("out[0] = a[8];", words, **watched)
