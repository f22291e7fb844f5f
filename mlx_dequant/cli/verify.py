"""Dequantize every tensor of a GGUF file and compare each bit with gguf-py.

Each type of tensor gets a row: how many weights differ, and how fast they were dequantized to float32,
in GB/s of packed bytes read and float32 bytes written, in times gguf-py's speed, and as a share of
the speed at which NumPy copies the same float32 values into a new array (for tensors of a few MB
that is often memory still warm from the last one). The first use of a loop, which may compile
it, is not timed; F32 needs no dequantizing and has no speed.

Exit status: 0; 1 where a bit differs, or a loop did not compile; 2 for a file that cannot be read.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, count, peak_memory, printable, size, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..diagnostics.verify import Row
    from ..loading.gguf_file import GGUFFile

NAMED = 5  # differing tensors that are named; --json names them all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .gguf file, or any part of a split one")
    parser.add_argument("--rounds", type=count, default=1, metavar="N", help="time N rounds, the best counts (1)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from ..errors import FormatError
    from ..loading.gguf_file import GGUFFile

    file = GGUFFile(options.file)
    verified = [info for info in file.tensors.values() if info.format is not None]
    total = sum(math.prod(info.shape) for info in verified)
    if total == 0:
        raise FormatError(f"{file.path.name}: found no weights, expected some to verify")
    rows = _compared(file, total, options.rounds)
    result = _result(file, rows)

    out = console(options)
    out.print(_table(rows))
    out.print(f"\nbackend: {result['backend']}\npeak memory: {size(result['peak_memory'])}")
    if result["flushed"]:
        out.print(f"{result['flushed']:,} subnormal weights came as zeros, which Metal cannot help")
    status = _verdict(out, rows, len(verified), total)
    others = sorted({info.type.title for info in file.tensors.values() if info.format is None})
    if others:
        out.print(f"not verified: {len(file.tensors) - len(verified)} tensors of type {', '.join(others)}")
    write_json(options, result)
    return status


def _verdict(out: Console, rows: list[Row], tensors: int, weights: int) -> int:
    names = [name for row in rows for name in row.differing]
    slow = [row.format.title for row in rows if not row.compiled]
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = ", ".join(printable(name, 60) for name in names[:NAMED])
        wrong = sum(row.wrong for row in rows)
        out.print(f"WRONG: {wrong:,} of {weights:,} weights differ from gguf-py, in {listed}{more}")
    if slow:
        out.print(f"NOT VERIFIED: {', '.join(slow)} could not be compiled here; the reference ran instead")
    if names or slow:
        return 1
    out.print(f"{tensors:,} tensors, {weights:,} weights: every bit equals gguf-py's")
    return 0


def _compared(file: GGUFFile, total: int, rounds: int) -> list[Row]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from ..diagnostics.verify import compare

    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def step(name: str, weights: int) -> None:
            progress.update(task, advance=weights, description=printable(name, 30))

        return compare(file, rounds, step)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table

    table = Table("type", "tensors", "weights", "wrong", "GB/s", "x gguf-py", "of the copy", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        rates = _rates(row)
        shown = ("", "", "")
        if rates["gbps"] is not None:
            shown = (f"{rates['gbps']:.2f}", f"{rates['times_gguf']:.1f}", f"{rates['copy_share']:.0%}")
        table.add_row(row.format.title, f"{row.tensors:,}", f"{row.weights:,}", f"{row.wrong:,}", *shown)
    return table


def _rates(row: Row) -> dict[str, float | None]:
    seconds, gguf_seconds, copy_seconds = (float(time) for time in row.seconds)
    if row.in_place or seconds == 0:
        return {"gbps": None, "times_gguf": None, "copy_share": None}
    return {
        "gbps": (row.nbytes + 4 * row.weights) / seconds / 1e9,
        "times_gguf": gguf_seconds / seconds,
        "copy_share": copy_seconds / seconds,
    }


def _result(file: GGUFFile, rows: list[Row]) -> dict[str, Any]:
    types = [
        {
            "type": row.format.title,
            "tensors": row.tensors,
            "weights": row.weights,
            "bytes": row.nbytes,
            "wrong": row.wrong,
            "flushed": row.flushed,
            "differing": row.differing,
            "compiled": row.compiled,
            "seconds": float(row.seconds[0]),
            **_rates(row),
        }
        for row in rows
    ]
    return {
        "file": str(file.path),
        "backend": _backend(),
        "types": types,
        "wrong": sum(row.wrong for row in rows),
        "flushed": sum(row.flushed for row in rows),
        "peak_memory": peak_memory(),
    }


def _backend() -> str:
    """The backend in use, with what compiled its loops."""
    from ..backends import current_backend
    from ..backends.host import threads
    from ..diagnostics.environment import compiler_line

    name = current_backend()
    return f"{name}: {compiler_line()}, {threads.count()} threads" if name == "host" else name
