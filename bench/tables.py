"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from .cases import Case

Row = dict[str, Any]


def duration(seconds: float) -> str:
    """Seconds, to be read by people: "8.18 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def place(row: Row) -> str:
    """Where it was measured, on one line."""
    versions = ", ".join(f"{name} {row[name]}" for name in ("mlx", "torch") if row.get(name))
    tool = f", {row['compiler']}" if row["compiler"] else ""
    return f"{row['device']}, {row['backend']}, {row['threads']} threads{tool}, {versions}, Python {row['python']}"


def case_table(case: Case, rows: Sequence[Row]) -> Table:
    """One case: the fastest contestant first."""
    table = Table(title=case.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("time", "spread", "GB/s", "of copy", "Gw/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", min_width=12)
    for row in rows:
        name = Text(row["contestant"], style="green" if row["contestant"].startswith("mlx-dequant") else "")
        note = Text(row["note"], style="dim")
        if row["status"] != "timed":
            style = "dim" if row["status"] == "left out" else "red"
            table.add_row(name, "", "", "", "", "", Text.assemble((row["status"].upper(), style), ": ", note))
            continue
        table.add_row(
            name,
            duration(row["seconds"]),
            f"±{(row['high'] - row['low']) / 2 / row['seconds']:.0%}",
            f"{row['gbps']:.3g}",
            f"{row['copy_share']:.0%}",
            f"{row['gweights']:.3g}",
            note,
        )
    return table


def cost_table(costs: Sequence[Row]) -> Table:
    """Fixed costs beside their aims."""
    table = Table(title="Fixed costs", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("aim", justify="right")
    for row in costs:
        missed = row["aim"] is not None and row["seconds"] > row["aim"]
        time = Text(duration(row["seconds"]), style="yellow" if missed else "")
        table.add_row(row["cost"], time, duration(row["aim"]) if row["aim"] else "")
    return table


def change_table(changes: Sequence[Row]) -> Table:
    """What `compare.changes` found."""
    table = Table(title="Changed beyond the noise", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("", "contestant", "before", "now", "change"):
        table.add_column(name, justify="right" if name in ("before", "now", "change") else "left")
    for change in changes:
        faster = change["ratio"] < 1
        said = f"{1 / change['ratio']:.2f} times as fast" if faster else f"{change['ratio']:.2f} times as long"
        times = [duration(change[name]) for name in ("before", "now")]
        table.add_row(change["case"], change["contestant"], *times, Text(said, style="green" if faster else "red"))
    return table
