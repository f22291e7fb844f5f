"""Products of many rows of x on CUDA, executed: qmm by mma.sync and by wgmma, as NVIDIA documents them."""

from contextlib import contextmanager

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import mostly_full, planted
from devices import generation, tuned
from emulated_kernels import needs_compiler
from product_cases import LONG, MANY, SCALED, by_traits, check_products, check_single_inputs, small_and_large, weight
from support import DTYPES

from mlx_dequant import dispatch
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.tuning import Device

pytestmark = needs_compiler
full = pytest.mark.full

# Of GPUs, by what qmm multiplies with.
GENERATIONS = {"mma": 80, "wgmma": 90}


@contextmanager
def qmm(instruction, threadgroups=1, compiled=(), **options):
    """qmm by that instruction. Threadgroups share inputs to make up `threadgroups`; 1: none do, and have many steps."""
    with (
        generation(GENERATIONS[instruction]),
        tuned(qmm_threadgroups=dict.fromkeys((32, 64, 128), threadgroups)),
        emulator.cuda(flags=compiled, **options),
    ):
        yield


# Formats by rows and by columns, and what `make test` multiplies with: blocks of rows, each layout by each instruction.
BLOCKS = {"q4_k": (17, "mma"), "gptq4": (17, "wgmma"), "awq4": (100, "mma"), "ct4": (64, "wgmma")}


@pytest.mark.parametrize(
    ("name", "rows", "instruction"),
    [
        pytest.param(name, rows, one, marks=() if (rows, one) == BLOCKS[name] else full)
        for name in BLOCKS
        for rows in (17, 64, 100, 200)
        for one in GENERATIONS
    ],
)
def test_products(name, rows, instruction):
    with qmm(instruction, order="ahead"):
        check_products(weight(name, MANY), DTYPES[1 + rows % 2], rows)


@full
@pytest.mark.parametrize("name", ["q6_k", "mxfp4", "ct3", "awq4", "gptq3"])
def test_blocks_and_steps_cut_short(name):
    with qmm("wgmma", order="ahead"):
        check_products(weight(name, LONG), mx.bfloat16 if name == "ct3" else mx.float16, 200)


@pytest.mark.parametrize("rows", [17, pytest.param(130, marks=full)])
@pytest.mark.parametrize("name", mostly_full(("gptq4", "awq4"), fast="gptq4"))
def test_groups_that_end_inside_the_inputs_of_a_lane(name, rows):
    outputs, inputs = LONG
    packed = sample_weights.groups(name, np.random.default_rng(5), inputs, outputs, 16, plain=True)
    with qmm("wgmma"):
        check_products(packed, mx.float16, rows)


def test_threadgroups_share_inputs():
    packed = weight("q6_k", (256, 10 * 256))
    with qmm("wgmma", threadgroups=8):
        plan = dispatch.plan(Device("cuda", 90), packed.matrix, 17, "float16", dispatch.MATMUL_T)
        assert [launch.params.split_k for launch in plan.launches] == [1, 4, 4]
        check_products(packed, mx.float16, 17)


# One of each arithmetic that half numbers have.
ARITHMETICS = ("q4_k", "q6_k", "mxfp4", "awq4", "gptq3")


@pytest.mark.parametrize("dtype", mostly_full((mx.float16, mx.bfloat16), fast=mx.float16), ids=str)
@pytest.mark.parametrize("name", by_traits(SCALED, ARITHMETICS))
def test_weights_are_exact(name, dtype):
    """By half arithmetic too, which is exact for whole numbers times a scale."""
    with qmm("mma", compiled=("-O0",)):  # compiling takes longer than running
        check_single_inputs(small_and_large(name), dtype, 17)


@full
@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("instruction", GENERATIONS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_every_order(name, instruction, order):
    with qmm(instruction, order=order):
        check_products(weight(name, MANY), mx.float16, 33)


@pytest.mark.parametrize(("known", "fused"), [(0, False), (75, False), (80, True), (90, True)])
def test_older_generations_have_no_matrix_unit(known, fused):
    matrix = weight("q4_k", MANY).matrix
    routes = {
        dispatch.route(Device("cuda", known), matrix, M, dtype).name
        for dtype in ("float32", "float16", "bfloat16")
        for M in (1, 16, 17, 384, 385, 5000)
    }
    assert routes == {"gemv", "dequantize_then_gemm", *(["fused_gemm"] if fused else [])}


@full
@pytest.mark.parametrize("instruction", GENERATIONS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_no_read_leaves_a_buffer(name, instruction, watched):
    with qmm(instruction, **watched):
        check_products(weight(name, MANY), mx.float16, 17)


def check_found(mutation, instruction, packed, rows):
    """With that text in place of another, products fail, and say so."""
    text, wrong, said = mutation
    with (
        planted(text, wrong),
        qmm(instruction, order="ahead", compiled=("-O0",)),  # compiling takes longer than running
        pytest.raises((AssertionError, emulator.EmulatorError), match=said),
    ):
        check_products(packed, mx.float16, rows)


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
EXCHANGE = "__syncwarp();\n  uint pairs[8];"
PAIRS, TURNED = '"r"(w[0]), "r"(w[1])', '"r"(w[1]), "r"(w[0])'
FENCE = 'asm volatile("wgmma.fence.sync.aligned;" : : : "memory");'
COMMIT = 'asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");'
WAIT = "A::wait_for_tile(x, space, k);"
ARRIVED = "wait_for_buffer(space, buffer);\n    "
COPIED = 'asm volatile("cp.async.wait_all;" : : : "memory");\n'
RELEASE = "A::release_tile(x, space, 0);\n"
RELEASED = "if (i + k > 0) A::release_tile(x, space, 1 - k);"
COPY = "A::fetch_tile(x, space, other, 1 - k);"
BLOCKED = "others wait at mbarrier.try_wait"
ANOTHER = f"if (i + k + 1 < steps) {COPY}"
TOO_MANY = (ANOTHER, ANOTHER.replace("< steps", "<= steps"), "the threadgroup ended before a copy did")
FIRST = "A::fetch_tile(x, space, tiles, 0);\n    LOADS"
SAME = "A::fetch_tile(x, space, tiles + k * size, k);"
MUTATIONS = {
    "mma": {
        "no wait for a tile": (WAIT, "", "inf times the bound"),
        "no barrier at a tile": (f"{COPIED}  __syncthreads();\n", COPIED, "inf times the bound"),
        "no barrier in the end": (f"{RELEASE}      {BARRIER}", RELEASE, "the largest error is"),
        "the same buffer": (COPY, SAME, "inf times the bound"),
        "part of a tile": ("i < COUNT / 2048", "i < COUNT / 4096", "inf times the bound"),
        "another row of x": ("(eighth + i) * 8 + lane / 4", "(eighth + i) * 8 + lane % 8", "the largest error is"),
        "pairs in another order": (PAIRS, TURNED, "the largest error is"),
        "exchanged without a barrier": (EXCHANGE, EXCHANGE.partition("\n")[2], "inf times the bound"),
        "a copy too many": TOO_MANY,
    },
    "wgmma": {
        "no wait for a tile": (ARRIVED, "", "mbarrier: more arrive"),
        "no release of a tile": (RELEASED, "", BLOCKED),
        "no wait for a release": ("wait_for_buffer(space, released + buffer);", "", BLOCKED),
        "no barrier in the end": (f"{RELEASE}      {BARRIER}", RELEASE, "the largest error is"),
        "the same buffer": (COPY, SAME, BLOCKED),
        "parity stays": ("space.parities ^= 1 << i;", "", "mbarrier: more arrive"),
        "one try": ("while (!done) {", "{", "mbarrier: more arrive"),
        "no barrier for a buffer": (
            "i < 2; ++i) {\n      uint barrier",
            "i < 1; ++i) {\n      uint barrier",
            "none was initialised here",
        ),
        "fewer bytes": ('"l"(from), "r"(bytes)', '"l"(from), "r"(bytes / 2)', BLOCKED),
        "other words swapped": ("word ^ row % 8", "word ^ row % 4", "the largest error is"),
        "another stride": ("1024ull / 16", "512ull / 16", "the largest error is"),
        "another k-slice": ("k_slice % 4 * 2 +", "k_slice % 4 +", "the largest error is"),
        "pairs in another order": (PAIRS, TURNED, "the largest error is"),
        "sums in another place": ("part[0], part[2]", "part[0], part[1]", "the largest error is"),
        "no wait for products": (f"{ARRIVED}wait_for_products();", ARRIVED, "a fragment changed"),
        "no group": (COMMIT, ";", "the largest error is"),
        "no fence": (FENCE, "", "a fence has to come first"),
        "a copy too many": TOO_MANY,
        "two copies to one place": (
            FIRST,
            f"{FIRST.removesuffix('LOADS')} {FIRST.replace('0', '1')}",
            "into the same place is not done",
        ),
    },
}


# What `make test` plants: a fault of each kind that the emulator tells in another way.
PLANTED = {"no barrier at a tile", "another row of x", "no release of a tile", "no barrier for a buffer", "no fence"}
PLANTED |= {"no wait for products", "a copy too many", "two copies to one place"}


@pytest.mark.parametrize(
    ("instruction", "mutation"),
    [
        pytest.param(one, mutation, marks=() if mutation in PLANTED else full)
        for one in MUTATIONS
        for mutation in MUTATIONS[one]
    ],
)
def test_mutations(instruction, mutation):
    packed = weight("q4_k" if "exchanged" in mutation else "gptq4", (160, 512) if "many" in mutation else MANY)
    check_found(MUTATIONS[instruction][mutation], instruction, packed, 17)
