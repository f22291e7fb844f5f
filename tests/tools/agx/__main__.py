"""Counts registers and instructions of our Metal kernels on Apple's GPU, beside MLX's.

Without options, every program of every format; --write then puts them into bench/results/agx.json and tightens the
limits. Columns: 16-bit registers, threads that a core has these for, spills and fills, bytes of scratch, instructions
and memory instructions a weight in the loop over K, bytes of code with what a launch runs once; beside products with
one row of x, MLX's registers and instructions a weight with as many bits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlx_dequant.launches import ANY_ROWS
from mlx_dequant.registry import formats

sys.path.insert(0, str(Path(__file__).parents[1]))

from . import limits
from .build import build, missing
from .compiler import AgxError, asahi_clc, compiled
from .machine import read
from .programs import Program, mlx_qmv, ours

RESULTS = Path(__file__).parents[3] / "bench/results/agx.json"


def row(program: Program, keep: Path | None = None) -> dict[str, Any]:
    """A program's row of the table."""
    machine = read(*compiled(program.text, program.threadgroup, keep and keep / program.name))
    per_weight = memory = None
    if program.weights:
        # A multiply-add for each weight and row of x; of a matrix product a lane has a sixteenth, and two there.
        several = program.kernel.startswith("qvm") and program.M == 16
        in_pass = program.template[0] - ANY_ROWS if several else min(program.M, 8)
        least = program.weights * (program.M / 8 if "qmm" in program.kernel else in_pass)
        loops = [loop for loop in machine.loops if loop.multiply_adds >= least]
        if not loops:
            raise AgxError(f"{program.name}: found no loop with {least:.0f} multiply-adds: {machine.loops}")
        hot = min(loops, key=lambda loop: loop.instructions)
        per_weight = round(hot.instructions / program.weights, 2)
        memory = round(hot.memory / program.weights, 3)
    return {
        "kernel": program.kernel,
        "format": program.format,
        "has_g_idx": program.has_g_idx,
        "M": program.M,
        "template": list(program.template),
        "dtype": program.dtype,
        "registers": machine.registers,
        "threads": machine.threads,
        "spills": machine.spills,
        "scratch": machine.scratch,
        "instructions_per_weight": per_weight,
        "memory_instructions_per_weight": memory,
        "code_bytes": machine.code_bytes,
    }


def rows(programs: list[Program], keep: Path | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of programs in their order, and what failed."""
    failed: list[str] = []

    def one(program: Program) -> dict[str, Any] | None:
        try:
            return row(program, keep)
        except AgxError as error:
            failed.append(f"{program.name}: {error}")
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [found for found in pool.map(one, programs) if found], failed


def table(found: list[dict[str, Any]]) -> str:
    """Rows as text, products with one row of x beside MLX's, if that is among them."""
    theirs = {one["format"]: one for one in found if one["format"].startswith("mlx")}
    heads = ("regs", "thr", "spill", "scr", "i/w", "mem/w", "bytes")
    lines = [f"{'':42} " + " ".join(f"{head:>6}" for head in heads)]
    for one in found:
        name = f"{limits.name(one)} {one['template'] or ''}" + ("" if one["dtype"] == "float16" else f" {one['dtype']}")
        line = f"{name:42} " + " ".join(f"{'-' if one[number] is None else one[number]:>6}" for number in _COLUMNS)
        form = formats().get(one["format"])
        beside = theirs.get(f"mlx-{limits.bits(form)}") if form and one["M"] == 1 else None
        if beside:
            line += f"   MLX {beside['registers']:3} {beside['instructions_per_weight']:5}"
        lines.append(line)
    return "\n".join(lines)


_COLUMNS = (
    *("registers", "threads", "spills", "scratch"),
    *("instructions_per_weight", "memory_instructions_per_weight", "code_bytes"),
)


def main() -> int:
    parser = argparse.ArgumentParser("agx", description=__doc__)
    parser.add_argument("--format", action="append", choices=[*formats(), "mlx"], help="the default is all, and MLX's")
    parser.add_argument("--kernel", action="append", help="qmv, qvm, qmm, dequantize, ...; the default is all")
    parser.add_argument("--M", type=int, help="rows of x in a pass")
    parser.add_argument("--dtype", action="append", help="float16 (the default), bfloat16")
    parser.add_argument("--keep", type=Path, help="a folder for each program's text, LLVM and machine code")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}, of all programs")
    parser.add_argument("--build", action="store_true", help="build the compiler first, where it is not there yet")
    options = parser.parse_args()
    if options.write and (options.format or options.kernel or options.M is not None or options.dtype):
        parser.error("--write is for all programs together")
    if options.build and not asahi_clc():
        if reason := missing():
            print(reason)
            return 0
        build()
    names = options.format or [*formats(), "mlx"]
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    programs: list[Program] = []
    for dtype in options.dtype or ["float16"]:
        programs += ours([name for name in names if name != "mlx"], dtype, options.kernel, options.M)
    if "mlx" in names:
        programs += mlx_qmv()
    found, failed = rows(programs, options.keep)
    print(table(found))
    for one in failed:
        print(one, file=sys.stderr)
    if options.write and not failed:
        RESULTS.write_text('{"rows": [\n' + ",\n".join(json.dumps(one) for one in found) + "\n]}\n")
        limits.write(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
