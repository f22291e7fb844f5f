"""Every kernel of every format under AddressSanitizer with UBSan, and under ThreadSanitizer.

    python -m tests.tools.sanitize                                   # all of it: hours
    python -m tests.tools.sanitize --device metal --format q4_k --sanitizer thread

Kernels run in the emulator, their buffers between guard pages. Results are compared as in the tests. Types, rows of x
and ways to share rows take turns from format to format. The last line says how many launches there were, of how many
pairs of a kernel and a format, and what was found.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import emulator  # noqa: E402
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from devices import generation, routed, tuned  # noqa: E402
from expert_cases import check_experts, chosen  # noqa: E402
from product_cases import FORMATS, SIZES, check_products, exact, shuffled, weight, wide_groups  # noqa: E402
from support import DTYPES, assert_same, rounded  # noqa: E402

import mlx_dequant as mxd  # noqa: E402
from mlx_dequant import backends  # noqa: E402
from mlx_dequant.backends.gpu import launch as gpu  # noqa: E402

# By name: a device, and CUDA's generation. The last one has an instruction for many rows.
DEVICES = {"metal": (emulator.metal, 0), "cuda-80": (emulator.cuda, 80), "cuda-90": (emulator.cuda, 90)}
SANITIZERS = ("address", "thread")
ROWS = (1, 2, 4, 7, 17)  # of x: one for each number of rows that kernels are compiled for
SMALL, MANY = (5, 33), (33, 64)  # outputs and inputs, which formats round up


class Runs:
    """The launches so far: how many, and of which kernels of which formats on which devices."""

    def __init__(self) -> None:
        self.launches, self.kernels = 0, set[tuple[str, ...]]()

    @contextmanager
    def counted(self, device: str) -> Generator[None]:
        make, watched = gpu.kernel, emulator.launch._watched

        def kernel(platform: str, form: Any, spec: Any, *types: Any) -> Any:
            self.kernels.add((device, form.name if form else "", spec.name))
            return make(platform, form, spec, *types)

        def run(*arguments: Any) -> None:
            self.launches += 1
            watched(*arguments)

        kernel.cache_clear = make.cache_clear  # pyright: ignore[reportFunctionMemberAccess]
        with patch.object(gpu, "kernel", kernel), patch.object(emulator.launch, "_watched", run):
            yield


def dequantize(name: str, turn: int) -> None:
    dtype = DTYPES[turn % 3]
    for size in (SMALL, (3, 77)):
        packed = weight(name, size)
        dense = exact(packed).astype(np.float32)
        stored = dense.T if packed.matrix.layout == "KN" else dense
        assert_same(backends.dequantize(packed.matrix, dtype), rounded(stored, dtype), f"{packed} {dtype}")


def look_up(name: str, turn: int) -> None:
    """Rows and columns, and ids outside, which give NaN."""
    dtype, packed = DTYPES[(turn + 1) % 3], weight(name, SMALL)
    dense = exact(packed).astype(np.float32)
    stored = dense.T if packed.matrix.layout == "KN" else dense
    for axis, lines in ((0, stored), (1, stored.T)):
        ids = [1, -1, 0, -len(lines), len(lines), -len(lines) - 1, 2**31 - 1, -(2**31)]
        found = backends.gather(packed.matrix, mx.array(ids, mx.int32), dtype, axis)
        assert_same(found[:4], rounded(np.ascontiguousarray(lines[ids[:4]]), dtype), f"{packed} axis {axis}")
        assert np.isnan(np.array(found[4:].astype(mx.float32))).all()


def few_rows(name: str, turn: int) -> None:
    """Products and their gradients: of a vector, whose rows eight simdgroups share, and of some more rows in turn."""
    with tuned(least_columns=1):
        check_products(weight(name, SMALL), DTYPES[turn % 3], 1)
    with tuned(few_rows=2048 * (turn % 2), least_columns=1):
        check_products(weight(name, SMALL), DTYPES[(turn + 2) % 3], ROWS[1 + turn % 4])


def by_matrix_units(name: str, turn: int) -> None:
    """On CUDA: few rows, where a format allows it."""
    check_products(wide_groups(name), mx.float16, (8, 1)[turn % 2], gradient=False)


def many_rows(name: str, turn: int) -> None:
    with routed("fused_gemm"):
        check_products(weight(name, MANY), (mx.float16, mx.bfloat16)[turn % 2], 17)


def experts(name: str, turn: int) -> None:
    with tuned(few_rows=2048 * (turn % 2), least_columns=1):
        check_experts(name, DTYPES[turn % 3], chosen("from the end", 1, 3), SMALL)
    check_experts(name, (mx.float16, mx.bfloat16)[turn % 2], chosen("sorted", 17, 1), SMALL)


def act_order(name: str, turn: int) -> None:
    """Weights and stacks that were sorted by group; a few rows of x, and more."""
    if name == "awq4" or FORMATS[name].family == "gguf":
        return
    with tuned(few_rows=0):
        for rows in (1, 17):
            check_products(shuffled(name, 64, 32), mx.float16, rows)
        check_experts(name, DTYPES[turn % 3], chosen("from the end", 1, 2), SIZES[1])
    check_experts(name, (mx.float16, mx.bfloat16)[turn % 2], chosen("sorted", 17, 1), SIZES[1])


Step = Callable[[str, int], None]
STEPS: dict[str, tuple[Step, ...]] = {
    "metal": (dequantize, look_up, few_rows, many_rows, experts, act_order),
    "cuda-80": (dequantize, look_up, few_rows, by_matrix_units, many_rows, experts, act_order),
    "cuda-90": (many_rows,),
}


def check(runs: Runs, device: str, name: str, sanitizer: str) -> list[str]:
    """Every kernel of a format on a device. What was found."""
    make, known = DEVICES[device]
    turn, found = list(FORMATS).index(name), []
    with ExitStack() as stack:
        if known:
            stack.enter_context(generation(known))
        # Compiling takes longer than running.
        stack.enter_context(make(sanitizer=sanitizer, order="shuffled", flags=("-O0",)))
        stack.enter_context(runs.counted(device))
        for step in STEPS[device]:
            try:
                step(name, turn)
            except Exception:
                found.append(f"{device} {name} {sanitizer} {step.__name__}: {traceback.format_exc()[-2500:]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, action="append", help="this one alone; may be repeated")
    parser.add_argument("--format", choices=mxd.formats(), action="append", help="this one alone; may be repeated")
    parser.add_argument("--sanitizer", choices=SANITIZERS, action="append", help="this one alone; may be repeated")
    options = parser.parse_args()
    begin, runs, findings = time.monotonic(), Runs(), 0
    for sanitizer in options.sanitizer or SANITIZERS:
        obstacle = emulator.obstacle(sanitizer)
        if obstacle:
            print(obstacle)
            return 2
        for device in options.device or DEVICES:
            for name in options.format or FORMATS:
                found = check(runs, device, name, sanitizer)
                findings += len(found)
                print(*found, f"{sanitizer} {device} {name}: {runs.launches:,} launches so far", sep="\n", flush=True)
    hours = (time.monotonic() - begin) / 3600
    print(
        f"sanitize: {runs.launches:,} launches of {len(runs.kernels):,} kernels of formats in {hours:.2f} hours, "
        f"{findings} findings"
    )
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
