"""Counts registers and instructions of our Metal kernels on Apple's GPU, beside MLX's.

A row with --format, --kernel, --M is printed alone; all rows together go to bench/results/agx.json (--write).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlx_dequant.registry import formats

from .compiler import AgxError, compiled
from .machine import read
from .programs import Program, mlx_qmv, ours

RESULTS = Path(__file__).parents[3] / "bench/results/agx.json"


def row(program: Program, keep: Path | None = None) -> dict[str, Any]:
    """A program's row of the table."""
    machine = read(*compiled(program.text, program.threadgroup, keep and keep / program.name))
    per_weight = memory = None
    if program.weights:
        # A multiply-add for each weight and row of x; of a matrix product a lane has a sixteenth, and two there.
        least = program.weights * (program.M / 8 if program.kernel == "qmm" else program.M)
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
    """Rows as text."""
    lines = [f"{'kernel':42} {'regs':>4} {'thr':>4} {'spill':>5} {'scr':>4} {'i/w':>6} {'mem/w':>6} {'bytes':>6}"]
    for one in found:
        name = f"{one['format'] or '-'}{' g_idx' if one['has_g_idx'] else ''} {one['kernel']}{one['template']}"
        name += "" if one["dtype"] == "float16" else f" {one['dtype']}"
        per, memory = one["instructions_per_weight"], one["memory_instructions_per_weight"]
        lines.append(
            f"{name:42} {one['registers']:4} {one['threads']:4} {one['spills']:5} {one['scratch']:4} "
            f"{per if per is not None else '-':>6} {memory if memory is not None else '-':>6} {one['code_bytes']:6}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("agx", description=__doc__)
    parser.add_argument("--format", action="append", choices=[*formats(), "mlx"], help="the default is all, and MLX's")
    parser.add_argument("--kernel", action="append", help="qmv, qvm, qmm, dequantize, ...; the default is all")
    parser.add_argument("--M", type=int, help="rows of x in a pass")
    parser.add_argument("--dtype", action="append", help="float16 (the default), bfloat16")
    parser.add_argument("--keep", type=Path, help="a folder for each program's text, LLVM and machine code")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
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
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
