"""`mlx-dequant bench`: measures, shows, writes."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.console import Console
from rich.status import Status

from mlx_dequant.cli.output import console, is_file, write_json, write_text
from mlx_dequant.errors import FormatError

from . import compare, report, tables
from . import options as arguments
from .cases import Case
from .contestants import Contestant, found
from .fixed import fixed_costs
from .page import page
from .run import Row, about
from .run import run as measured
from .submit import submit_text


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit status."""
    begin = time.monotonic()
    out = console(options)
    old = report.read(options.compare) if options.compare else None
    if options.source:
        result = report.read(options.source)
        shown(out, result["rows"])
    else:
        result = measure(out, options, begin)
    out.print()
    out.print(tables.cost_table(result["fixed"]))
    if old is not None:
        compared(out, old, result)
    write_json(options, result)
    if options.csv:
        write_text(options.csv, report.csv_text(result["rows"]))
    if options.html:
        write_text(options.html, page(result))
        out.print(f"\n{options.html} has the charts")
    if options.submit_text:
        out.print()
        out.print(submit_text(result["rows"], result["fixed"]), soft_wrap=True)
    ours = [row for row in result["rows"] if row["contestant"].startswith("mlx-dequant")]
    return int(any(row["status"] in ("disqualified", "failed") for row in ours))


def measure(out: Console, options: argparse.Namespace, begin: float) -> dict[str, Any]:
    """Measures what the arguments choose, and shows it as it comes."""
    try:
        cases = arguments.cases(options)
    except ValueError as error:
        raise FormatError(str(error)) from None
    here, absent = found()
    if options.contestants:
        here = [one for one in here if any(part.lower() in one.name.lower() for part in options.contestants)]
    if "bridge" in absent:  # nothing crosses without torch
        cases = [case for case in cases if case.format]
    out.print(tables.place(about()))
    for name, why in absent.items():
        out.print(f"{name}: {why}", style="dim")
    if options.quick:
        out.print("a quick run: torch.compile in one case, and no reference", style="dim")
    with out.status("fixed costs") if out.is_terminal else Silence() as status:
        fixed = fixed_costs(rounds=1 if options.quick else 5)
        done = 0
        kept: list[Row] = []

        def show(case: Case, rows: list[Row]) -> None:
            nonlocal done
            done += 1
            out.print()
            out.print(tables.case_table(case, rows))
            # Who cuts a long run short has what was measured.
            kept.extend(rows)
            if is_file(options.json):
                write_json(options, report.assembled(kept, fixed, absent))

        def step(case: Case, name: str) -> None:
            status.update(f"{done + 1} of {len(cases)}: {case.title} ({name})")

        rows, left = measured(
            cases,
            here,
            budget=0.6 if options.quick else options.seconds,
            rounds=7 if options.quick else 25,
            deadline=begin + arguments.QUICK_SECONDS if options.quick else None,
            fits=quick_fits if options.quick else lambda case, contestant: True,
            show=show,
            step=step,
        )
    if left:
        out.print(f"\nno time left for {len(left)} cases, from {left[0].title} on", style="yellow")
    return report.assembled(rows, fixed, absent)


class Silence(Status):
    """A status where there is no terminal to show it on."""

    def __init__(self) -> None:
        super().__init__("", console=Console(quiet=True))


def quick_fits(case: Case, contestant: Contestant) -> bool:
    """Whether a quick run has the time: compiling takes seconds, and the reference is slow."""
    if "compile" in contestant.name:
        return (case.operation, case.format) == ("dequantize", "awq4")
    return not contestant.name.endswith("reference")


def shown(out: Console, rows: list[Row]) -> None:
    """Tables of rows from a file."""
    out.print(tables.place(rows[0]))
    by_case: dict[Case, list[Row]] = {}
    for row in rows:
        names = ("operation", "format", "layer", "dtype", "vectors")
        case = Case(**{name: row[name] for name in names}, shape=tuple(row["shape"]))
        by_case.setdefault(case, []).append(row)
    for case, found_rows in by_case.items():
        out.print()
        out.print(tables.case_table(case, found_rows))


def compared(out: Console, old: dict[str, Any], new: dict[str, Any]) -> None:
    """What changed since `old`."""
    found_changes = compare.changes(old["rows"], new["rows"])
    out.print()
    for place in found_changes["places"]:
        out.print(f"not the same {place}", style="yellow")
    if found_changes["changed"]:
        out.print(tables.change_table(found_changes["changed"]))
    for row in found_changes["broken"]:
        out.print(f"{compare.title(row)}, {row['contestant']}: {row['status'].upper()}: {row['note']}", style="red")
    counts = ", ".join(f"{found_changes[name]} {name}" for name in ("same", "added", "removed"))
    out.print(f"{len(found_changes['changed'])} changed beyond the noise, {counts}")
