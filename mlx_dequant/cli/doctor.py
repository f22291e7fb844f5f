"""Examine this machine: every kernel against the reference, in a report to paste into an issue.

On each backend that works here every format is dequantized, looked up in and multiplied with, on weights
made up for it: any bits, edges, and ordinary numbers. What is dequantized is compared in every bit,
matmuls with float64. Where torch is installed the bridge is checked too. Timings are a first
impression.

Exit status: 0; 1 where anything is wrong; 2 where no backend but the reference works.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, write_json

if TYPE_CHECKING:
    from ..diagnostics.checks import Check, Times

SHOWN = 20  # failed checks that the report shows; --json has them all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", metavar="NAME", help="examine this one alone")
    parser.add_argument("--format", metavar="NAME", action="append", help="examine this format alone; may be repeated")
    parser.add_argument(
        "--plans",
        nargs="?",
        const="here",
        metavar="DEVICE",
        help="print which kernels run, and examine nothing: for the GPU here, or metal, metal:17, cuda:90 ...",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    if options.plans:
        return _print_plans(options)
    from ..diagnostics.environment import report

    start = perf_counter()
    names, backends = _formats(options.format), _backends(options.backend)
    facts = report()
    examined = {backend: _examined(backend, names) for backend in backends}
    bridge = _bridge()
    problems = sum(check.wrong > 0 or bool(check.problem) for checks, _ in examined.values() for check in checks)
    problems += sum(not holds for _, holds, _ in bridge)

    lines = [f"{name:12}{fact}" for name, fact in facts.items()]
    for backend, (checks, times) in examined.items():
        lines += ["", *_backend_lines(backend, len(names), checks, times)]
    lines += ["", *_bridge_lines(bridge)]
    verdict = "all is well"
    if not examined:
        verdict = "no backend but the reference works here: there is nothing to examine; pip install ziglang"
    if problems:
        verdict = f"{problems} checks FAILED"
    lines += ["", f"{verdict} ({perf_counter() - start:.0f} s)"]
    out = console(options)
    out.print("\n".join(lines), soft_wrap=True)
    write_json(options, _result(facts, examined, bridge, problems))
    return 1 if problems else 0 if examined else 2


def _print_plans(options: argparse.Namespace) -> int:
    """The tables of the dispatcher, and what a layer of each format launches."""
    from ..diagnostics import plans
    from ..registry import formats

    names = _formats(options.format)
    out = console(options)
    tables: dict[str, Any] = {}
    for device in plans.devices(options.plans):
        rows = list(plans.table(device))
        layers = {name: list(plans.plans(device, formats()[name])) for name in names}
        tables[plans.title(device)] = {"table": rows, "formats": layers}
        lines = [plans.title(device), *rows, "", *(line for each in layers.values() for line in each), ""]
        out.print("\n".join(lines), soft_wrap=True, markup=False)
    write_json(options, {"plans": tables})
    return 0


def _formats(asked: list[str] | None) -> list[str]:
    from ..errors import FormatError
    from ..registry import formats

    for name in asked or ():
        if name not in formats():
            raise FormatError(f"format: found {name!r}, expected one of {', '.join(formats())}")
    return asked or list(formats())


def _backends(asked: str | None) -> list[str]:
    from ..backends import available_backends
    from ..errors import FormatError

    fast = [name for name in available_backends() if name != "reference"]
    if asked is None:
        return fast
    if asked not in fast:
        raise FormatError(f"backend: found {asked!r}, expected one of {', '.join(fast) or 'none, for none works here'}")
    return [asked]


def _examined(backend: str, names: list[str]) -> tuple[list[Check], list[Times]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..backends import use_backend
    from ..backends.host import compiler
    from ..diagnostics import checks
    from ..registry import formats

    if backend == "host" and (problem := compiler.trial()):
        # Each format would wait for a compiler that hangs.
        advice = "set CXX to another compiler (pip install ziglang) or MLX_DEQUANT_CACHE to another folder"
        return [checks.Check("host", "a small program", wrong=1, problem=f"{problem}; {advice}")], []
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    results: list[Check] = []
    with (
        use_backend(backend, "float32"),
        Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress,
    ):
        if not screen.is_terminal:
            print(f"mlx-dequant: examining {len(names)} formats on {backend}", file=sys.stderr, flush=True)
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=f"{backend}: {name}")
            results += checks.checks(formats()[name])
            progress.advance(task)
        progress.update(task, description=f"{backend}: timings")
        # Times of kernels that are wrong, or do not compile, are worth nothing.
        good = {name for name in names if not any(check.problem for check in results if check.format == name)}
        return results, checks.times(good)


def _backend_lines(backend: str, count: int, checks: list[Check], times: list[Times]) -> list[str]:
    total = sum(check.results for check in checks)
    failed = [check for check in checks if check.problem]
    lines = [f"{backend}: {count} formats, {len(checks)} checks, {total:,} numbers, {len(failed)} checks failed"]
    lines += [f"  WRONG {check.format} {check.what}: {_problem(check)}" for check in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"  and {len(failed) - SHOWN} more; --json has them all")
    flushed = sum(check.flushed for check in checks)
    if flushed:
        lines.append(f"  {flushed:,} subnormal numbers came as zeros, which Metal cannot help")
    for timing in times:
        both = f"dequantized in {timing.dequantize:,.0f} us, one row of x in {timing.linear:,.0f} us"
        lines.append(f"  {timing.format:8} {timing.size} x {timing.size}: {both}")
    return lines


def _problem(check: Check) -> str:
    return f"{check.wrong:,} of {check.results:,}, {check.problem}" if check.results else check.problem


def _bridge() -> list[tuple[str, bool, str]]:
    if find_spec("torch") is None:
        return []
    try:
        from ..bridges.doctor import checks
    except Exception as error:  # torch is there and does not load
        return [("torch can be imported", False, f"{type(error).__name__}: {error}".partition("\n")[0])]
    return checks()


def _bridge_lines(bridge: list[tuple[str, bool, str]]) -> list[str]:
    if not bridge:
        return ["bridge: torch is not installed"]
    return ["bridge:", *(f"  {'holds' if holds else 'WRONG'}  {what}: {seen}" for what, holds, seen in bridge)]


def _result(
    facts: dict[str, str],
    examined: dict[str, tuple[list[Check], list[Times]]],
    bridge: list[tuple[str, bool, str]],
    problems: int,
) -> dict[str, Any]:
    return {
        "environment": facts,
        "backends": {
            backend: {"checks": [asdict(check) for check in checks], "timings": [asdict(timing) for timing in times]}
            for backend, (checks, times) in examined.items()
        },
        "bridge": [{"what": what, "holds": holds, "seen": seen} for what, holds, seen in bridge],
        "failed": problems,
    }
