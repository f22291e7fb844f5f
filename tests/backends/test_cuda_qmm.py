"""Products of many vectors on CUDA, executed: tiles by mma.sync and by wgmma, as NVIDIA documents them."""

from contextlib import contextmanager
from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import mostly_full, planted
from emulated_kernels import needs_compiler
from product_cases import LONG, MANY, SCALED, check_products, check_single_inputs, small_and_large, weight
from support import DTYPES

from mlx_dequant import dispatch, kernel_source
from mlx_dequant.diagnostics import sample_weights

pytestmark = needs_compiler
full = pytest.mark.full

# What GPUs are, and what their compilers define: tiles are by mma.sync or by wgmma.
GENERATIONS = {"mma": (80, ()), "wgmma": (90, ("-D__CUDA_ARCH_FEAT_SM90_ALL",))}


@contextmanager
def tiles(instruction, groups=1, clustered=dispatch.CLUSTERED, **options):
    """Tiles are by that instruction. Threadgroups share inputs to make up `groups`; 1: none do, and have many steps."""
    generation, flags = GENERATIONS[instruction]
    with (
        patch.object(dispatch, "CLUSTERED", clustered),
        patch.object(dispatch, "generation", lambda target: generation),
        patch.dict(dispatch.TILED_GROUPS, dict.fromkeys(dispatch.TILED_GROUPS, groups)),
        emulator.cuda(flags=flags, **options),
    ):
        yield


@pytest.mark.parametrize("rows", mostly_full((17, 64, 100, 200), fast=17))
@pytest.mark.parametrize("instruction", GENERATIONS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4", "awq4", "ct4"])
def test_tiles(name, instruction, rows):
    with tiles(instruction, order="ahead"):
        check_products(weight(name, MANY), DTYPES[1 + rows % 2], rows)


STAGED_FORMATS = ("q4_0", "q6_k", "q8_0", "mxfp4", "ct4", "ct3", "awq4", "gptq4", "gptq3")


@pytest.mark.parametrize("name", mostly_full(STAGED_FORMATS, fast="awq4"))
def test_tiles_of_256_vectors(name):
    with tiles("wgmma", order="ahead"):
        check_products(weight(name, LONG), mx.bfloat16 if name == "ct3" else mx.float16, 200)


@pytest.mark.parametrize("rows", [17, 130])
@pytest.mark.parametrize("name", mostly_full(("gptq4", "ct4"), fast="gptq4"))
def test_tiles_of_inputs_in_no_order(name, rows):
    outputs, inputs = LONG
    packed = sample_weights.groups(name, np.random.default_rng(5), inputs, outputs, 32, plain=True, g_idx="uneven")
    with tiles("wgmma"):
        check_products(packed, mx.float16, rows)


def test_threadgroups_share_inputs_by_pairs_of_steps():
    with tiles("wgmma", groups=18):
        check_products(weight("q6_k", (256, 10 * 256)), mx.float16, 130)


# Formats that have an arithmetic like another's, but for their bits.
ALIKE = {"q4_0", "q5_0", "q8_0", "q1_0", "q2_0", "tq1_0", "tq2_0", "nvfp4", "iq1_s", "iq2_xxs", "iq2_xs", "iq2_s"}
ALIKE |= {"iq3_xxs", "gptq2", "gptq4", "gptq8", "ct2", "ct3", "ct8"}


@pytest.mark.parametrize("dtype", mostly_full((mx.float16, mx.bfloat16), fast=mx.float16), ids=str)
@pytest.mark.parametrize("name", [pytest.param(name, marks=full if name in ALIKE else ()) for name in SCALED])
def test_tiles_have_exact_weights(name, dtype):
    """By half arithmetic too, which is exact for whole numbers times a scale."""
    with tiles("mma"):
        check_single_inputs(small_and_large(name), dtype, 17)


@full
@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("instruction", GENERATIONS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_tiles_in_every_order(name, instruction, order):
    with tiles(instruction, order=order):
        check_products(weight(name, MANY), mx.float16, 33)


# Vectors, and outputs and inputs of which clusters have two tiles each, or parts of one both ways.
CLUSTERED = {"whole": (130, (256, 512)), "cut short": (300, (96, 77))}


@pytest.mark.parametrize("order", mostly_full(emulator.ORDERS, fast="ahead"))
@pytest.mark.parametrize("case", CLUSTERED)
def test_tiles_of_clusters(case, order):
    rows, size = CLUSTERED[case]
    with tiles("wgmma", clustered=0, order=order):
        check_products(weight("q8_0", size), mx.float16, rows)


@pytest.mark.parametrize(("generation", "tiled"), [(0, False), (75, False), (80, True), (90, True)])
def test_older_generations_have_no_tiles(generation, tiled):
    with patch.object(dispatch, "generation", lambda target: generation):
        ways = {dispatch.way("cuda", dtype, count) for dtype in DTYPES for count in (1, 16, 17, 384, 385, 5000)}
    assert ways == {"packed", "unpacked", *(["tiled"] if tiled else [])}


@full
@pytest.mark.parametrize("instruction", GENERATIONS)
@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_no_read_of_tiles_leaves_a_buffer(name, instruction, watched):
    with tiles(instruction, **watched):
        check_products(weight(name, MANY), mx.float16, 17)


@full
@pytest.mark.parametrize("name", ["awq4", "gptq4", "q4_0"])
def test_no_copy_of_weights_leaves_a_buffer(name, watched):
    with tiles("wgmma", **watched):
        check_products(weight(name, LONG), mx.float16, 130)


def few(mistakes):
    """Of mistakes, of which `make test` plants every fourth."""
    return [pytest.param(one, marks=full if at % 4 else ()) for at, one in enumerate(mistakes)]


def check_found(mistake, instruction, packed, rows, **options):
    """With that text in place of another, products fail, and say so."""
    text, wrong, said = mistake
    with (
        planted(text, wrong),
        tiles(instruction, order="ahead", **options),
        pytest.raises((AssertionError, emulator.EmulatorError), match=said),
    ):
        check_products(packed, mx.float16, rows)


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
EXCHANGE = "simdgroup_barrier(mem_flags::mem_threadgroup);\n    for (uint k = 0; k < 8; ++k) {"
PAIRS = '"r"(weights.pairs[0][2 * slice]), "r"(weights.pairs[1][2 * slice])'
TURNED = '"r"(weights.pairs[1][2 * slice]), "r"(weights.pairs[0][2 * slice])'
FENCE = 'asm volatile("wgmma.fence.sync.aligned;" : : : "memory");'
COMMIT = 'asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");'
WAIT = "wait_for_tile(space, k);"
COPIED = 'asm volatile("cp.async.wait_all;" : : : "memory");\n'
RELEASE = "release_tile(space, 0);\n"
RELEASED = "if (i + k > 0) release_tile(space, 1 - k);"
COPY = "copy_tile<size>(space, x, tiles + (1 - k) * size, 1 - k);"
BLOCKED = "others wait at mbarrier.try_wait"
ANOTHER = f"if (i + k + 1 < steps) {COPY}"
TOO_MANY = (ANOTHER, ANOTHER.replace("< steps", "<= steps"), "the threadgroup ended before a copy did")
FIRST = "copy_tile<size>(space, x, tiles, 0);"
SAME = "copy_tile<size>(space, x, tiles + k * size, k);"
TILES = {
    "mma": {
        "no wait for a tile": (WAIT, "", "off by nan"),
        "no barrier at a tile": (f"{COPIED}  __syncthreads();\n", COPIED, "off by nan"),
        "no barrier in the end": (f"{RELEASE}    {BARRIER}", RELEASE, "off by"),
        "the same buffer": (COPY, SAME, "off by nan"),
        "part of a tile": ("i < COUNT / 2048", "i < COUNT / 4096", "off by nan"),
        "another vector": ("(eighth + i) * 8 + lane / 4", "(eighth + i) * 8 + lane % 8", "off by"),
        "pairs in another order": (PAIRS, TURNED, "off by"),
        "exchanged without a barrier": (EXCHANGE, EXCHANGE.partition("\n")[2], "off by nan"),
        "a copy too many": TOO_MANY,
    },
    "wgmma": {
        "no wait for a tile": (WAIT, "", "mbarrier: more arrive"),
        "no release of a tile": (RELEASED, "", BLOCKED),
        "no wait for a release": ("wait_for_barrier(space, released + buffer);", "", BLOCKED),
        "no barrier in the end": (f"{RELEASE}    {BARRIER}", RELEASE, "off by"),
        "the same buffer": (COPY, SAME, BLOCKED),
        "parity stays": ("space.parities ^= 1 << i;", "", "mbarrier: more arrive"),
        "one try": ("while (!done) {", "{", "mbarrier: more arrive"),
        "no barrier for a buffer": (
            "i < 2; ++i) {\n      uint barrier",
            "i < 1; ++i) {\n      uint barrier",
            "none was initialised here",
        ),
        "fewer bytes": ('"r"(share), "r"(barrier)', '"r"(share / 2), "r"(barrier)', BLOCKED),
        "other words swapped": ("word ^ vector % 8", "word ^ vector % 4", "off by"),
        "another stride": ("1024ull / 16", "512ull / 16", "off by"),
        "another slice": ("slice % 4 * 2);", "slice % 4);", "off by"),
        "pairs in another order": (PAIRS, TURNED, "off by"),
        "sums in another place": ("part[0], part[2]", "part[0], part[1]", "off by"),
        "no wait for products": (f"wait_for_products();\n      {RELEASED}", RELEASED, "a factor changed"),
        "no group": (COMMIT, ";", "off by"),
        "no fence": (FENCE, "", "a fence has to come first"),
        "a copy too many": TOO_MANY,
        "two copies to one place": (FIRST, f"{FIRST} {FIRST.replace('0', '1')}", "into the same place is not done"),
    },
}


@pytest.mark.parametrize(("instruction", "mistake"), [(one, mistake) for one in TILES for mistake in TILES[one]])
def test_mistakes_in_tiles(instruction, mistake):
    packed = weight("q4_k" if "exchanged" in mistake else "gptq4", (160, 512) if "many" in mistake else MANY)
    check_found(TILES[instruction][mistake], instruction, packed, 17)


WAIT_FOR_STRIPS = "if (k == 1 && i + 2 < steps) wait_for_weights(where, i / 2 + 1, space);"
ARRIVE = 'asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" : : "r"(barrier) : "memory");'
STAGED = {
    "no wait for strips": (WAIT_FOR_STRIPS, "", "mbarrier: more arrive"),
    "nobody arrives": (ARRIVE, "", BLOCKED),
    "the same stage": ("at % 2 * stage_bytes", "at % 1 * stage_bytes", "off by"),
    "too late a step": ("begin + (i + 2) * step, i / 2 + 1", "begin + (i + 1) * step, i / 2 + 1", "off by"),
    "another tile": (
        "strips_of<F>(source, BY_INPUTS ? input : output,",
        "strips_of<F>(source, BY_INPUTS ? input : 0,",
        "off by",
    ),
    "another run": ("/ run * 16;", "/ run * 32;", "off by"),
    "an offset forgotten": ("run * 16 + uint(size_t(from.first) % 16)", "run * 16", "off by"),
    "words not copied": ("skipped < offset + W::bytes", "skipped + 16 < offset + W::bytes", "off by nan"),
}


@pytest.mark.parametrize("mistake", few(STAGED))
def test_mistakes_in_staged_weights(mistake):
    check_found(STAGED[mistake], "wgmma", weight("q6_k", LONG), 130)


BEGUN = "  }\n  wait_for_cluster();\n}"
FINISH = "finish(workspace<T>&) {\n  wait_for_cluster();"
FULL = '"r"(uint(COUNT * sizeof(T)))'
MASK = "(1 << space.peers) - 1"
PLACES = """uint vector = cluster % down * VECTORS;
  uint cluster_output = cluster / down % across * cluster_outputs;
  uint first_output = cluster_output + threadgroup_index % CLUSTER * tile_outputs;"""
OTHER_PLACES = """uint vector = threadgroup_index % down * VECTORS;
  uint cluster_output = threadgroup_index / down % (across * CLUSTER) * tile_outputs;
  uint first_output = cluster_output;"""
LAST = "release_tile(space, (steps - 1) % 2);\n"
CHANGED = "a factor changed"
NONE = "none was initialised here"
CLUSTERS = {
    "no release to the neighbour": ("space.lane == 1 && space.peers == 2", "false", BLOCKED),
    "released to itself twice": ('"r"(space.rank ^ 1)', '"r"(space.rank)', CHANGED),
    "a barrier for 8 warps": ('"r"(8 * space.peers)', '"r"(8u)', CHANGED),
    "no wait for a release": ("wait_for_barrier(space, released + buffer);", "", CHANGED),
    "copied to itself only": (MASK, "1 << space.rank", BLOCKED),
    "copied to the neighbour only": (MASK, "2 >> space.rank", BLOCKED),
    "copied to another cluster": (MASK, "(2 << space.peers) - 1", "there is no threadgroup 2 of the cluster"),
    "half expected": (FULL, '"r"(share)', CHANGED),
    "the same half of a tile": ("(to)) + space.rank * share;", "(to));", "another copy into the same place"),
    "the same half of x": ("from + space.rank * share", "from", "off by"),
    "other vectors": (PLACES, OTHER_PLACES, "off by"),
    "no wait in the beginning": (BEGUN, "  }\n  __syncthreads();\n}", NONE),
    "arrived, not waited": ('asm volatile("barrier.cluster.wait.aligned;" : : : "memory");', "", NONE),
    "no wait in the end": (FINISH, FINISH.partition("\n")[0], "threadgroup 0 of the cluster has ended"),
    "a copy in the end": (LAST, f"{LAST}  copy_tile<size>(space, x, tiles, 0);\n", "ended before a copy did"),
}


@pytest.mark.parametrize("mistake", few(CLUSTERS))
def test_mistakes_in_clusters(mistake):
    rows = 300 if "vectors" in mistake else 130
    check_found(CLUSTERS[mistake], "wgmma", weight("gptq4", (256, 512)), rows, clustered=0)


def in_clusters(body, groups, **options):
    """`out` of so many threadgroups of 64, of which two are a cluster; a number for each thread `i`."""
    size = groups * 64
    with emulator.cuda(**options):
        kernel = mx.fast.cuda_kernel(
            name="test",
            input_names=[],
            output_names=["out"],
            source=f"unsigned i = blockIdx.x * 64 + threadIdx.x;\n{body}",
            header=kernel_source.ATTRIBUTES.format("__cluster_dims__(2, 1, 1)"),
            shared_memory=64,
            ensure_row_contiguous=False,
        )
        (out,) = kernel(
            inputs=[],
            output_shapes=[(size,)],
            output_dtypes=[mx.uint32],
            grid=(size, 1, 1),
            threadgroup=(64, 1, 1),
            stream=None,
        )
    return np.array(out)


ARRIVE_IN_CLUSTER = 'asm volatile("barrier.cluster.arrive.aligned;" : : : "memory");\n'
WAIT_IN_CLUSTER = 'asm volatile("barrier.cluster.wait.aligned;" : : : "memory");\n'
MEET = ARRIVE_IN_CLUSTER + WAIT_IN_CLUSTER
ASK = """unsigned rank, peers;
asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(peers));
"""
SWAP = f"{ASK}out[i] = i;\n{MEET}unsigned other = out[i ^ 64];\n{MEET}out[i] = other * 100 + rank * 10 + peers;"


SWAPPED = [(i ^ 64) * 100 + i // 64 % 2 * 10 + 2 for i in range(256)]


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_clusters_meet(order):
    assert in_clusters(SWAP, 4, order=order).tolist() == SWAPPED


def test_clusters_meet_where_reads_are_watched(watched):
    assert in_clusters(SWAP, 4, **watched).tolist() == SWAPPED


def test_grids_are_whole_clusters():
    with pytest.raises(emulator.EmulatorError, match="found 3 threadgroups, expected clusters of 2"):
        in_clusters("out[i] = i;", 3)


MEETINGS = {
    "arrived twice": (ARRIVE_IN_CLUSTER * 2, "a thread arrives again before it waits"),
    "not arrived": (WAIT_IN_CLUSTER, "a thread waits before it arrives"),
    "one threadgroup": (f"if (blockIdx.x % 2) {{ {MEET} }}", "64 of 128 threads returned, others wait at barrier.clus"),
    "part of a warp": (f"if (i % 32) {{ {MEET} }}", "others wait at barrier.cluster.arrive"),
}


@pytest.mark.parametrize("mistake", MEETINGS)
def test_mistakes_where_clusters_meet(mistake):
    body, said = MEETINGS[mistake]
    with pytest.raises(emulator.EmulatorError, match=said):
        in_clusters(body, 2)
