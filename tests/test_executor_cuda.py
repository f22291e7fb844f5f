"""Every format's CUDA program, as MLX generates it, executed: the bits are the reference's, products near exact."""

from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import executor
import mlx.core as mx
import numpy as np
import pytest
import random_weights
import strict.cuda
from executor_kernels import needs_compiler
from product_cases import SIZES, check_products, weight
from random_weights import GGUF_FORMATS, GROUP_FORMATS
from support import DTYPES, GGUF_TYPES, assert_same, gguf_fixture, rounded

import mlx_dequant as mxd

pytestmark = needs_compiler
full = pytest.mark.full

# A tile that is whole, one that is not, and steps that are.
WHOLE = (160, 256)
# What GPUs without the instructions of newer ones compile.
OLD = ("-D__CUDA_ARCH__=700",)


@cache
def reference(weight):
    """[out, in] float32."""
    with mxd.use_backend("reference"), np.errstate(all="ignore"):
        dense = np.array(weight.dequantize(mx.float32))
    return dense.T if weight.by_inputs else dense


def check_unpacking(weights, dtypes=DTYPES):
    """Weights of one format, unpacked and looked up, in each type."""
    cases = [(weight, dtype) for weight in weights for dtype in dtypes]

    def found():
        return [(one.dequantize(dtype), one.take(ids(one), dtype)) for one, dtype in cases]

    with executor.cuda(found):
        results = found()
    for (one, dtype), (dense, rows) in zip(cases, results, strict=True):
        exact = reference(one)
        assert_same(dense, rounded(exact.T if one.by_inputs else exact, dtype), f"{one} {dtype}")
        assert_same(rows, rounded(exact[np.array(ids(one))], dtype), f"take {one} {dtype}")


def ids(weight):
    return mx.array([0, -1, weight.out_features // 2])


@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_gguf(name):
    rng = np.random.default_rng(1)
    sizes = ((1, 1), (9, 257), (3, 520), *(((2, 7), (1, 263)) if name in ("f32", "f16", "bf16") else ()))
    fixtures = gguf_fixture(name).values() if name in GGUF_TYPES else ()
    check_unpacking(
        [random_weights.gguf(name, rng, *size) for size in sizes]
        + [mxd.GGUFWeight(blocks, name) for blocks, _ in fixtures]
    )


def of_each(names, kinds):
    """Every name with every kind; with one of them in `make test`, each name with the next."""
    for at, name in enumerate(names):
        for i, kind in enumerate(kinds):
            label = f"{name}-{kind}".replace("mlx.core.", "")
            yield pytest.param(name, kind, id=label, marks=() if i == at % len(kinds) else full)


@pytest.mark.parametrize(("name", "scales"), of_each(GROUP_FORMATS, DTYPES))
def test_groups(name, scales):
    rng = np.random.default_rng(2)
    weights = [
        random_weights.groups(name, rng, inputs, outputs, group_size, scales)
        for inputs, outputs, group_size in ((9, 32, 16), (32, 264, -1), (70, 1, 3), (3, 2, 16), (100, 64, 48))
    ]
    if name.startswith("gptq"):
        weights += [
            random_weights.groups(name, rng, 64, 64, zeros=zeros, scales=scales) for zeros in ("v1-field", "v2")
        ]
    if name.startswith("packed"):
        weights += [
            random_weights.groups(name, rng, *size, zeros="none", scales=scales)
            for size in ((1, 1), (5, 1), (13, 9), (263, 2), (520, 9))
        ]
    if name != "awq4":
        weights += [random_weights.groups(name, rng, 100, 64, act_order=True, scales=scales)]
    check_unpacking(weights)


ROWS = (1, 7, 17, 64, 100)
FAST = {("q4_k", 1), ("gptq4", 7), ("q4_k", 64), ("gptq4", 17)}


@pytest.mark.parametrize(
    ("name", "rows"),
    [pytest.param(name, rows, marks=() if (name, rows) in FAST else full) for name in mxd.formats() for rows in ROWS],
)
def test_products(name, rows):
    with executor.cuda():
        for at, size in enumerate((WHOLE, *SIZES)):
            check_products(weight(name, size), DTYPES[(at + rows) % 3], rows, seed=rows)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_tiles_on_older_gpus(dtype):
    with executor.cuda(flags=OLD):
        for name in ("q4_k", "gptq4"):
            check_products(weight(name, WHOLE), dtype, 17)


@pytest.mark.parametrize(
    "name", [name if name == "gptq4" else pytest.param(name, marks=full) for name in mxd.formats()]
)
def test_no_read_leaves_a_buffer(name):
    obstacle = executor.obstacle("address")
    if obstacle:
        pytest.skip(obstacle)
    with executor.cuda(sanitizer="address"):
        for size in SIZES:
            packed = weight(name, size)
            assert_same(
                packed.dequantize(mx.float16),
                rounded(reference(packed).T if packed.by_inputs else reference(packed), mx.float16),
            )
            check_products(packed, mx.float16, 2)


def run(body, *inputs, size=1, dtype=mx.uint32):
    """`out` of a kernel with inputs `a`, `b`, ... of one threadgroup, a thread for each of `size` elements."""
    names = list("abcdef"[: len(inputs)])
    with executor.cuda():
        kernel = mx.fast.cuda_kernel(name="test", input_names=names, output_names=["out"], source=body, header="")
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


@contextmanager
def planted(text, mistake):
    """Every program has a mistake in place of a text."""

    def cuda_text(kernel, call):
        header, function = strict.cuda.cuda_text(kernel, call)
        assert text in header
        return header.replace(text, mistake), function

    with patch.object(executor.cuda_device, "cuda_text", cuda_text):
        yield


# A format that shows it, what is planted, and what is said.
UNPACKING = {
    "a sign for a byte": ("nvfp4", "(code >> 3 & 0x01010101) * 255", "__byte_perm(code << 4, 0, 0xba98)", "differ"),
    "another selector": ("iq4_xs", "0x4420", "0x4402", "differ"),
    "another offset": ("q4_k", "__byte_perm(word, 0x4b000000", "__byte_perm(word, 0x4a000000", "differ"),
    "the other end of a word": ("q2_k", "word >> (8 * k)", "word >> (24 - 8 * k)", "differ"),
    "halves exchanged": ("f16", "as_type<ushort>(high)", "as_type<ushort>(low)", "differ"),
    "rounding down": ("q4_1", "T low = T(w[i + 2 * k]);", "T low = T(w[i + 2 * k] * 0.999f);", "differ"),
    "store not aligned": ("f32", "if (aligned)", "if (true)", r"misaligned address \(prelude/cuda.h:\d+\)"),
    "load not aligned": ("q8_0", "load_bytes<N, 2>", "load_bytes<N, 4>", r"misaligned address \(prelude/cuda.h:\d+\)"),
}
TILES = {
    "blocks not turned": ("gptq4", "x4.trans.shared", "x4.shared"),
    "blocks in another order": (
        "q4_k",
        "lane / 16 * stride + lane / 8 % 2 * 64",
        "lane / 8 % 2 * stride + lane / 16 * 64",
    ),
    "registers in another order": ("q4_k", "right.part[0], right.part[1]", "right.part[0], right.part[2]"),
    "sums in another place": ("q4_k", "threadIdx.x % 32 / 4 * 16", "threadIdx.x % 32 / 4 * 8"),
}
PRODUCTS = {
    "half of the lanes": ("q4_k", "lane = 16; lane > 0", "lane = 8; lane > 0"),
    "no barrier": ("gptq4", "__syncthreads();", ";"),
}


@pytest.mark.parametrize("mistake", UNPACKING)
def test_mistakes_in_unpacking(mistake):
    name, text, wrong, said = UNPACKING[mistake]
    rng = np.random.default_rng(3)
    with planted(text, wrong), pytest.raises((AssertionError, executor.ExecutorError), match=said):
        check_unpacking([random_weights.gguf(name, rng, 9, 13)])


@pytest.mark.parametrize("mistake", [*TILES, *PRODUCTS])
def test_mistakes_in_products(mistake):
    name, text, wrong = {**TILES, **PRODUCTS}[mistake]
    vectors = 17 if mistake in TILES else 2
    with planted(text, wrong), executor.cuda(), pytest.raises(AssertionError, match="off by"):
        check_products(weight(name, WHOLE), mx.float16, vectors)
