"""CUDA's instructions in the emulator: copies by barriers, and what is no instruction there."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import needs_compiler, numbers

pytestmark = needs_compiler

# As the package gives NVRTC a kernel's attributes.
BOUNDS = """#undef __global__
#define __global__ __attribute__((global)) __launch_bounds__(64, 2)
"""


def launch(body, x=None, **options):
    """`out` of a threadgroup of 64, an element a thread; `x` has 128 numbers, and 1024 bytes are shared."""
    with emulator.cuda(**options):
        kernel = mx.fast.cuda_kernel(
            name="test",
            input_names=["x"],
            output_names=["out"],
            source=f"unsigned i = threadIdx.x;\n{body}",
            header=BOUNDS,
            shared_memory=1024,
        )
        (out,) = kernel(
            inputs=[mx.array(numbers(128) if x is None else x)],
            output_shapes=[(64,)],
            output_dtypes=[mx.float32],
            grid=(64, 1, 1),
            threadgroup=(64, 1, 1),
        )
    return np.array(out)


def assembly(text, *operands, result=""):
    inputs = ", ".join(operands)
    return f'asm volatile("{text}" : {result} : {inputs} : "memory");\n'


SHARED = """extern __shared__ __align__(1024) float memory[];
float* tile = memory + 16;
unsigned barrier = unsigned(__cvta_generic_to_shared(memory));
unsigned to = unsigned(__cvta_generic_to_shared(tile));
"""
INIT = assembly("mbarrier.init.shared::cta.b64 [%0], 1;", '"r"(barrier)')
INIT += assembly("mbarrier.init.shared::cta.b64 [%0], 8;", '"r"(barrier + 8)')
INIT += assembly("fence.mbarrier_init.release.cluster;") + assembly("fence.proxy.async.shared::cta;")
EXPECT = assembly("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;", '"r"(barrier)', '"r"(256u)')
COPY = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
BULK = assembly(COPY, '"r"(to)', '"l"(x)', '"r"(256u)', '"r"(barrier)')
ARRIVE = assembly("mbarrier.arrive.shared::cta.b64 _, [%0];", '"r"(barrier + 8)')
TRY = "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"


def wait(barrier):
    attempt = assembly(TRY, f'"r"({barrier})', '"r"(0u)', result='"=r"(done)')
    return f"for (unsigned done = 0; !done;) {{\n{attempt}}}\n"


START = f"{SHARED}if (i == 0) {{\n{INIT}}}\n__syncthreads();\n"
BEGIN = f"if (i == 0) {{\n{EXPECT}{BULK}}}\n"
TAKE = "out[i] = tile[63 - i];\n"
COPIED = START + BEGIN + wait("barrier") + TAKE
# Eight threads arrive when they have written; all wait for them.
MET = f"{START}if (i % 8 == 0) {{\ntile[i / 8] = i;\n{ARRIVE}}}\n{wait('barrier + 8')}out[i] = tile[i / 8];\n"


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_a_copy_completes_a_barrier(order):
    np.testing.assert_array_equal(launch(COPIED, order=order), numbers(64)[::-1])


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_a_barrier_of_eight(order):
    np.testing.assert_array_equal(launch(MET, order=order), numbers(64) // 8 * 8)


def test_a_copy_is_nan_before_it_is_waited_for():
    assert np.isnan(launch(START + BEGIN + "__syncthreads();\n" + TAKE + wait("barrier"))).all()


BLOCKED = "others wait at mbarrier.try_wait"
SAME_PLACE = "another copy into the same place is not done"
ENDED = "the threadgroup ended before a copy did"
# A text, another in its place, and what is said then.
COPIES = {
    "nothing initialised": (INIT, "", "none was initialised here"),
    "the bytes of two copies expected": ('"r"(256u)', '"r"(512u)', BLOCKED),
    "no copy": (BULK, "", BLOCKED),
    "too short a copy": (BULK, BULK.replace("256u", "128u"), BLOCKED),
    "a size that is no multiple": (BULK, BULK.replace("256u", "252u"), "cp.async: misaligned"),
    "from a misaligned address": ('"l"(x)', '"l"(x + 1)', "cp.async: misaligned"),
    "to a misaligned address": ('"r"(to)', '"r"(to + 4)', "misaligned address in shared memory"),
    "beyond shared memory": ('"r"(to)', '"r"(to + 768)', "address outside of shared memory"),
    "for no barrier": (BULK, BULK.replace('"r"(barrier)', '"r"(barrier + 16)'), "none was initialised here"),
    "two copies to one place": (BULK, BULK + BULK, SAME_PLACE),
    "copies that overlap": (BULK, BULK + BULK.replace('"r"(to)', '"r"(to + 240)'), SAME_PLACE),
    "nobody waits": (wait("barrier"), "", ENDED),
    "a copy in the end": (TAKE, TAKE + BEGIN, ENDED),
}


@pytest.mark.parametrize("order", ["forward", "ahead"])
@pytest.mark.parametrize("mutation", COPIES)
def test_mutations_of_copies(mutation, order):
    text, wrong, said = COPIES[mutation]
    if mutation.startswith("the bytes"):
        text, wrong = EXPECT, EXPECT.replace(text, wrong)
    assert text in COPIED
    with pytest.raises(emulator.EmulatorError, match=said):
        launch(COPIED.replace(text, wrong), order=order)


def test_seven_of_eight_arrive():
    with pytest.raises(emulator.EmulatorError, match=BLOCKED):
        launch(MET.replace("if (i % 8 == 0) {", "if (i % 8 == 0 && i) {"))


def names(begin, end):
    return ", ".join(f"%{i}" for i in range(begin, end))


PREDICATE = "{ .reg .pred p; setp.ne.u32 p, %2, 0; "
OF_256 = f"wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {{{names(0, 128)}}}, {{{names(128, 132)}}}, %132"
# Clusters have no place here, nor what blocks of 256 rows of x took.
UNKNOWN = {
    "multicast": assembly(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;",
        *('"r"(to)', '"l"(x)', '"r"(256u)', '"r"(barrier)', '"r"(1u)'),
    ),
    "cluster's barrier": assembly("barrier.cluster.arrive.aligned;"),
    "rank": assembly("mov.u32 %0, %%cluster_ctarank;", result='"=r"(to)'),
    "copy by a predicate": assembly(
        f"{PREDICATE}@p cp.async.cg.shared.global.L2::256B [%0], [%1], 16; }}", '"r"(to)', '"l"(x)', '"r"(1u)'
    ),
    "arrival of copies": assembly("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];", '"r"(barrier)'),
    "barrier of any count": assembly("mbarrier.init.shared::cta.b64 [%0], %1;", '"r"(barrier)', '"r"(8u)'),
    "barrier of 256": assembly("mbarrier.init.shared::cta.b64 [%0], 256;", '"r"(barrier)'),
    "256 rows of x": "float d[128]; unsigned a = 0;\n"
    + assembly(
        f"{{ .reg .pred p; setp.eq.u32 p, 0, 0; {OF_256}, p, 1, 1, 0; }}",
        *['"r"(a)'] * 4,
        '"l"(0ull)',
        result=", ".join(f'"+f"(d[{i}])' for i in range(128)),
    ),
}


@pytest.mark.parametrize("instruction", UNKNOWN)
def test_what_is_no_instruction_here(instruction):
    # One program has them all, and `x` tells which is to run.
    cases = [f"if (x[0] == {at}) {{\n{text}}}\n" for at, text in enumerate(UNKNOWN.values())]
    which = np.full(128, list(UNKNOWN).index(instruction), np.float32)
    with pytest.raises(emulator.EmulatorError, match="no such instruction here"):
        launch(START + "".join(cases), which)
