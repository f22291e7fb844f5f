"""Products of few rows of x on CUDA by mma.sync, executed as NVIDIA documents it."""

from contextlib import contextmanager

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import mostly_full, planted
from devices import generation
from emulated_kernels import needs_compiler
from product_cases import FORMATS, check_products, check_single_inputs, small_and_large, weight, wide_groups

from mlx_dequant import dtypes, launches
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.tuning import Device

pytestmark = needs_compiler

# What `make test` multiplies, and how many rows of x with it.
FAST = {"awq4": 8, "gptq4": 1, "gptq3": 1, "ct4": 3, "q3_k": 3, "q4_k": 11}


def exact_block(form):
    """Weights of `wide_groups` whose codes are integers times one scale."""
    return form.traits.get("exact_block", 0) if form.family == "gguf" else 128


# Inputs of a lane: four lanes share a scale.
LANES = {name: 8 if exact_block(form) % 128 else 32 for name, form in FORMATS.items() if exact_block(form)}


@contextmanager
def mma(**options):
    with generation(80), emulator.cuda(**options):
        yield


def inputs_of_a_lane(packed, M, dtype=mx.float16, known=80):
    return launches.mma_inputs(Device("cuda", known), packed.matrix, M, dtypes.name(dtype))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param(name, rows, marks=() if rows == FAST.get(name) else pytest.mark.full)
        for name in LANES
        for rows in (1, 3, 8, 11)
    ],
)
def test_products(name, rows):
    assert inputs_of_a_lane(wide_groups(name), 8) == LANES[name]
    with mma():
        check_products(wide_groups(name), mx.float16, rows)


@pytest.mark.parametrize("name", mostly_full([n for n in LANES if FORMATS[n].family != "gguf"], fast="gptq3"))
def test_groups_of_32(name):
    packed = small_and_large(name)
    assert inputs_of_a_lane(packed, 8) == 8
    with mma():
        check_products(packed, mx.float16, 4)
        check_single_inputs(packed, mx.bfloat16, 4)


@pytest.mark.parametrize("name", mostly_full(LANES, fast="q3_k"))
def test_weights_are_exact(name):
    with mma():
        check_single_inputs(wide_groups(name), mx.float16, 1)
        check_single_inputs(wide_groups(name), mx.bfloat16, 4)


@pytest.mark.parametrize(("name", "size"), [("awq4", (40, 224)), ("ct4", (37, 96))])
def test_sizes_that_nothing_divides(name, size):
    packed = weight(name, size)
    assert inputs_of_a_lane(packed, 3) == 8
    with mma():
        check_products(packed, mx.float16, 3)


@pytest.mark.full
@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", ["awq4", "ct4"])
def test_every_order(name, order):
    with mma(order=order):
        check_products(wide_groups(name), mx.float16, 8)


@pytest.mark.parametrize("name", mostly_full(LANES, fast="ct2"))
def test_no_read_leaves_a_buffer(name, watched):
    with mma(**watched):
        check_products(wide_groups(name), mx.float16, 3)


def test_what_is_not_for_mma():
    bfloats = sample_weights.groups("gptq4", np.random.default_rng(7), 256, 64, 128, mx.bfloat16)
    others = [(wide_groups("iq3_s"), mx.bfloat16, 8), (wide_groups("gptq4"), mx.float32, 8), (bfloats, mx.float16, 8)]
    others += [(wide_groups("q6_k"), mx.float16, 8), (wide_groups("iq2_xs"), mx.float16, 2)]
    short = sample_weights.groups("gptq4", np.random.default_rng(7), 256, 64, 16)
    others += [
        (short, mx.float16, 8),
        (weight("ct4", (40, 72)), mx.float16, 8),
        (weight("awq4", (40, 77)), mx.float16, 8),
    ]
    assert [inputs_of_a_lane(packed, M, dtype) for packed, dtype, M in others] == [0] * 8
    assert inputs_of_a_lane(wide_groups("gptq4"), 8) == 32
    assert inputs_of_a_lane(wide_groups("gptq4"), 8, known=75) == 0


# What is planted, and of which format.
MUTATIONS = {
    "pairs of other inputs": ("gptq4", "? 0x5410 : 0x7632", "? 0x7632 : 0x5410"),
    "fields of another word": ("awq4", "shift / 8 * 0x1111 + 0x4400", "shift / 8 * 0x1111"),
    "neighbours in another order": ("ct3", "pairs[i / 2 * stride] =", "pairs[(COUNT - 1 - i) / 2 * stride] ="),
    "another output's sums": ("awq4", "part[i / 2][i % 2 * 2 + k]", "part[i / 2][i % 2 + k]"),
    "another output's scale": ("ct4", "scale_of(by[i]) * part", "scale_of(by[0]) * part"),
    "another lane's rows of x": ("gptq4", "lane % 4 == m / 2", "lane % 4 == m % 4"),
    "another output's min": ("q4_k", "by[i].min * all[k]", "by[0].min * all[k]"),
    "inputs twice": ("gptq4", "uint share = thread_index / 32;", "uint share = 0;"),
    "no barrier before sums are added": (
        "awq4",
        "sum[i][m % V];\n      }\n    }\n    threadgroup_barrier(mem_flags::mem_threadgroup);",
        "sum[i][m % V];\n      }\n    }",
    ),
}


@pytest.mark.parametrize(
    "mutation", [pytest.param(one, marks=() if MUTATIONS[one][0] == "gptq4" else pytest.mark.full) for one in MUTATIONS]
)
def test_mutations(mutation):
    name, text, wrong = MUTATIONS[mutation]
    with planted(text, wrong), mma(flags=("-O0",)), pytest.raises(AssertionError, match="the largest error is"):
        check_products(wide_groups(name), mx.float16, 3)


@pytest.mark.full
def test_lanes_past_the_last_output_are_seen(watched):
    text, wrong = "min(first + lane_output, outputs - BN)", "first + lane_output"
    with planted(text, wrong), mma(**watched), pytest.raises(emulator.EmulatorError, match="overflow"):
        check_products(wide_groups("gptq4"), mx.float16, 3)
