"""Products of many rows with experts by matrix units, executed as Metal and CUDA would run them, in every format."""

from contextlib import contextmanager
from itertools import product

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import planted
from devices import generation
from emulated_kernels import needs_compiler
from expert_cases import EXPERTS, check_experts, chosen, experts
from product_cases import FORMATS, MANY, SIZES

from mlx_dequant import kernels, launches, tuning
from mlx_dequant.backends.gpu.launch import bind
from mlx_dequant.tuning import Device

pytestmark = needs_compiler
full = pytest.mark.full

# What multiplies: simdgroup matrices, mma.sync and wgmma.
UNITS = {"metal": (0, emulator.metal), "mma": (80, emulator.cuda), "wgmma": (90, emulator.cuda)}
TYPES = (mx.float16, mx.bfloat16)
# A whole block of outputs and part of one, three steps and part of one.
BLOCKS = (136, 200)


@contextmanager
def unit(name, compiled=(), **options):
    known, device = UNITS[name]
    with generation(known), device(flags=compiled, **options):
        yield


# What `make test` has: Metal's unit and Hopper's, whole blocks and steps or act-order.
FAST = {
    ("q6_k", "metal", mx.float16, BLOCKS),
    ("gptq4", "wgmma", mx.float16, SIZES[1]),
}


# Few pairs, and more than 128, of which one expert has more than 64.
FAST_CHOICES = (("any", (33, 3)), ("one has most", (150, 1)))


def cases():
    for case in product(FORMATS, UNITS, TYPES, (BLOCKS, MANY, *SIZES)):
        name, where, dtype, size = case
        label = f"{name}-{where}-{str(dtype).rpartition('.')[2]}-{size[0]}x{size[1]}"
        yield pytest.param(*case, id=label, marks=() if case in FAST else full)


@pytest.mark.parametrize(("name", "where", "dtype", "size"), list(cases()))
def test_products(name, where, dtype, size):
    """Act-order with the second of `SIZES`. A gradient by the same kernel needs a row of x for each choice."""
    with unit(where, order="ahead"):
        check_experts(name, dtype, chosen("from the end", 18, 1), size, gradient=size != BLOCKS)


@pytest.mark.parametrize(
    ("where", "kind", "shape"),
    [
        pytest.param(*case, marks=() if case[1:] in FAST_CHOICES and case[0] == "metal" else full)
        for case in product(
            UNITS,
            ("any", "from the end", "some missing", "all equal", "one has most", "sorted"),
            ((17, 1), (33, 3), (20, 8), (150, 1), (300, 1), (64, 6)),
        )
    ],
)
def test_choices(where, kind, shape):
    """Tiles that are full and not, one expert's after another's, blocks of every size."""
    with unit(where):
        check_experts("q8_0", mx.float16, chosen(kind, *shape), (37, 77), gradient=False)


@full
@pytest.mark.parametrize("where", UNITS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4", "gptq3", "awq4", "ct3"])
def test_choices_in_other_formats(name, where):
    """Both layouts, act-order, fields that straddle words; a gradient too, by the other layout's loop."""
    rows = {"any": (40, 5), "some missing": (17, 2), "all equal": (33, 3), "sorted": (300, 1)}
    with unit(where):
        for at, (kind, shape) in enumerate(rows.items()):
            check_experts(name, TYPES[at % 2], chosen(kind, *shape), SIZES[1], gradient=kind == "some missing")


@pytest.mark.parametrize("where", ["metal", pytest.param("wgmma", marks=full)])
@pytest.mark.parametrize("name", ["q8_0", pytest.param("gptq4", marks=full)])
def test_an_id_out_of_range_gives_nan(name, where):
    packed, _ = experts(name)
    outside = np.array([EXPERTS, -EXPERTS - 1, 2**31 - 1, -(2**31), 2**31, 2**32 + 1, -(2**32)])
    x = mx.random.normal((20, packed.in_features), mx.float16, key=mx.random.key(3))
    ids = chosen("from the end", 20, 3).astype(np.int64)
    right = ids.copy()
    ids[3:10, 2] = outside
    with unit(where):
        found, expected = (np.array(packed.gather_linear(x, mx.array(each))) for each in (ids, right))
    assert np.isnan(found[3:10, 2]).all()
    found[3:10, 2] = expected[3:10, 2]
    assert np.array_equal(found, expected)


@full
@pytest.mark.parametrize("ids_dtype", [mx.int32, mx.uint32], ids=str)
@pytest.mark.parametrize(("columns", "k"), [(40, 3), (41, 1), pytest.param(16384 + 8, 2, marks=full)])
@pytest.mark.parametrize("where", ["metal", "wgmma"])
def test_rows_in_the_order_of_each_expert(where, columns, k, ids_dtype):
    """Bit by bit. An id out of range reads an order that is there."""
    rng = np.random.default_rng(0)
    x = mx.array(rng.normal(size=(3, columns)).astype(np.float16))
    perm = np.array([rng.permutation(columns) for _ in range(4)], np.int32)
    ids = rng.integers(0, 4, (3, k))
    ids[0, 0], ids[2, k - 1] = 9, 3
    given = np.where(ids == 3, -1, ids) if ids_dtype == mx.int32 else ids
    launch = launches.expert_permutation(4, 3, k, columns, "float16")
    with unit(where, order="ahead"):
        permute = bind("metal" if where == "metal" else "cuda", None, launch, str(ids_dtype))
        found = np.array(permute(None, x, mx.array(perm), mx.array(given).astype(ids_dtype)))
    expected = [np.array(x)[at // k][perm[min(number, 3)]] for at, number in enumerate(ids.ravel())]
    assert np.array_equal(found, expected)


def test_inputs_that_lie_at_any_place():
    """Rows that no wide load may read: of an odd length, or in the middle of an array."""
    packed, _ = experts("gptq4", (40, 77))
    x = mx.random.normal((19, 2 * packed.in_features), mx.float16, key=mx.random.key(4))[:, 3 : 3 + packed.in_features]
    ids = mx.array(chosen("any", 19, 1))
    for where in ("metal", "wgmma"):
        with unit(where):
            assert mx.array_equal(packed.gather_linear(x, ids), packed.gather_linear(x + 0, ids))


def test_launches():
    """One launch a product, where rows are many and of two bytes."""
    packed, _ = experts("q4_k")
    matrix = packed.matrix

    def launch(M, k, dtype="float16", device=None):
        return launches.gather_many(device or Device("metal"), matrix, M, k, dtype, True)

    assert launch(16, 8) is None and launch(300, 8, "float32") is None
    assert launch(300, 8, device=Device("cuda", 75)) is None
    assert launch(17, 1).spec == launch(300, 8).spec == kernels.gather_qmm(False, 32, 16, "simdgroup")
    assert launch(26, 8, device=Device("cuda", 90)).spec == kernels.gather_qmm(False, 64, 16, "wgmma")
    assert launch(300, 1, device=Device("cuda", 90)).spec == kernels.gather_qmm(False, 128, 16, "wgmma")
    many = launch(300, 8)
    assert (many.shape, many.dtype, many.params.M, many.params.choices) == ((2400, 37), "float16", 2400, 8)
    assert many.threadgroups >= 2400 / 64 + EXPERTS
    few = next(M for M in range(17, 300) if launch(M, 1) is not None)
    assert few == max(17, tuning.METAL.expert_pairs * EXPERTS)


def test_experts_without_pairs_have_no_tile():
    """A threadgroup that finds none reads no weight: nothing of experts that no id names is looked at."""
    packed, _ = experts("q8_0")
    blocks = np.array(packed.arrays["blocks"])
    blocks[[0, 2, 4]] = 0xFF  # NaN times anything
    poisoned = packed.replace(blocks=mx.array(blocks))
    ids, x = mx.array(chosen("any", 20, 2) % 2 * 2 + 1), mx.ones((20, packed.in_features), mx.float16)
    with unit("metal"):
        assert mx.array_equal(poisoned.gather_linear(x, ids), packed.gather_linear(x, ids))


@full
@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("where", UNITS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_every_order(name, where, order):
    with unit(where, order=order):
        check_experts(name, mx.float16, chosen("any", 33, 1), MANY, gradient=False)


@full
@pytest.mark.parametrize("where", UNITS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_no_read_leaves_a_buffer(name, where, watched):
    with unit(where, **watched):
        check_experts(name, mx.float16, chosen("any", 17, 2), SIZES[1], gradient=False)


BARRIER = "wait_for_products();\n    threadgroup_barrier(mem_flags::mem_threadgroup);"
# A text, another in its place, and what is said then.
MUTATIONS = {
    "no barrier at a tile": (BARRIER, "wait_for_products();", "bound|a fragment"),
    "no wait for products": (BARRIER, BARRIER.partition("\n")[2], "a fragment changed"),
    "the tile that is multiplied": ("A::put_tile(x, other)", "A::put_tile(x, tiles + k * size)", "bound|a fragment"),
    "another row": ("order[tile.first + at]", "order[tile.first]", "the largest error is"),
    "rows of x for each choice": ("/ p.choices", "", "misaligned|bound"),
    "an octet too far": ("x.row[i % x.rows] + input, x.held", "x.row[i % x.rows] + input + 8, x.held", "bound"),
    "the next expert": ("(key - 1) % p.experts", "key % p.experts", "the largest error is"),
    "tiles lie apart": ("begin / BM) * BM", "begin / BM) * (BM + 8)", "bound"),
    "pairs of another expert": ("== key;", "== key - 1;", "inf times the bound"),
    "in the order of the ids": ("x.order[i] :", "i :", "bound"),
    "a near first pair": ("last + 1 - same", "last - same", "the largest error is|bound"),
    "no far first pair": ("same < 64 ?", "same < 65 ?", "the largest error is|bound"),
}  # fmt: skip


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(one, marks=() if "products" in one or "far" in one else full) for one in MUTATIONS],
)
def test_mutations(mutation):
    text, wrong, said = MUTATIONS[mutation]
    with (
        planted(text, wrong),
        unit("wgmma", order="ahead", compiled=("-O0",)),
        pytest.raises((AssertionError, emulator.EmulatorError), match=said),
    ):
        ids = chosen("one has most", 150, 1) if "far" in mutation else chosen("some missing", 40, 2)
        check_experts("gptq4", mx.float16, ids, (128, 192), gradient=False)
