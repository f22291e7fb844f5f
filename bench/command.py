"""`mlx-dequant bench`: measures, shows, writes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from rich.console import Console

from mlx_dequant.cli.output import console, is_file, write_json, write_text
from mlx_dequant.diagnostics.environment import environment
from mlx_dequant.errors import FormatError

from . import changes, report, results
from . import options as arguments
from .cases import Case, generation, overhead
from .html_report import html_report
from .providers import Provider, found
from .run import Row
from .run import run as measured


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit status."""
    begin = time.monotonic()
    out = console(options)
    old = results.read(options.compare) if options.compare else None
    if options.source:
        result = results.read(options.source)
        out.print(report.environment_line(result))
        for table in report.case_tables(result["rows"]):
            out.print("", table)
    elif options.model:
        result = results.assembled(generation.rows(options.model), {})
        out.print(f"{report.environment_line(result)}, BLAS: {result['blas'] or 'not known'}")
    else:
        result = measure(out, options, begin)
    for table in report.other_tables(result["rows"]):
        out.print("", table)
    if old is not None:
        show_changes(out, old, result)
    write_json(options, result)
    if options.csv:
        write_text(options.csv, results.csv_text(result["rows"]))
    if options.html:
        write_text(options.html, html_report(result))
        out.print(f"\n{options.html} has the charts")
    if options.submit_text:
        out.print()
        out.print(report.submit_text(result), soft_wrap=True)
    ours = [row for row in result["rows"] if results.is_ours(row["provider"])]
    return int(any(row.get("status") in ("wrong", "failed") for row in ours))


def measure(out: Console, options: argparse.Namespace, begin: float) -> dict[str, Any]:
    """Measures what the arguments choose, and shows it as it comes."""
    try:
        cases = arguments.cases(options)
    except ValueError as error:
        raise FormatError(str(error)) from None
    here, absent = found()
    if options.providers:
        here = [one for one in here if any(part.lower() in one.name.lower() for part in options.providers)]
    if "crossing" in absent:  # nothing crosses without torch
        cases = [case for case in cases if case.format]
    out.print(report.environment_line(environment()))
    for name, why in absent.items():
        out.print(f"{name}: {why}", style="dim")
    if options.quick:
        out.print("a quick run: torch.compile in one case, and no reference", style="dim")
    with out.status("overhead") if out.is_terminal else nullcontext() as status:
        rows: list[Row] = list(overhead.rows(rounds=1 if options.quick else 5))
        shown: list[Case] = []

        def show(case: Case, found: list[Row]) -> None:
            shown.append(case)
            out.print("", report.case_table(case, found))
            # Who cuts a long run short has what was measured.
            rows.extend(found)
            if is_file(options.json):
                write_json(options, results.assembled(rows, absent))

        def step(case: Case, name: str) -> None:
            if status is not None:
                status.update(f"{len(shown) + 1} of {len(cases)}: {case.title} ({name})")

        _, left = measured(
            cases,
            here,
            budget=0.6 if options.quick else options.seconds,
            rounds=7 if options.quick else 25,
            deadline=begin + arguments.QUICK_SECONDS if options.quick else None,
            fits=quick_fits if options.quick else lambda case, provider: True,
            show=show,
            step=step,
        )
    if left:
        out.print(f"\nno time left for {len(left)} cases, from {left[0].title} on", style="yellow")
    return results.assembled(rows, absent)


def quick_fits(case: Case, provider: Provider) -> bool:
    """Whether a quick run has the time: compiling takes seconds, and the reference is slow."""
    if "compile" in provider.name:
        return (case.case, case.format) == ("dequantize", "awq4")
    return not provider.name.endswith("reference")


def show_changes(out: Console, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """What changed since `old`."""
    found = changes.changes(old, new)
    out.print()
    for difference in found["environments"]:
        out.print(f"not the same {difference}", style="yellow")
    if found["changed"]:
        out.print(report.change_table(found["changed"]))
    for row in found["broken"]:
        said = f"{report.case_of(row).title}, {row['provider']}: {row['status'].upper()}: {row['check']}"
        out.print(said, style="red")
    counts = ", ".join(f"{found[name]} {name}" for name in ("same", "added", "removed"))
    out.print(f"{len(found['changed'])} changed beyond the noise, {counts}")
