"""Results as text: tables on the terminal, and a block to paste into an issue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from .cases import ACT_ORDER, FUSED, Case
from .results import is_ours, of_operations

Row = dict[str, Any]
PRODUCT_COSTS = {"build_us": "µs to build", "launches": "launches", "text_bytes": "bytes of text"}


def duration(seconds: float) -> str:
    """Seconds, to be read by people: "8.18 ms"."""
    unit, size = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if seconds >= s), ("µs", 1e-6))
    return f"{seconds / size:.3g} {unit}"


def environment_line(result: Mapping[str, Any]) -> str:
    """Where it was measured, on one line."""
    parts = [result["device"], result["backend"], f"{result['threads']} threads", result["compiler"]]
    versions = [f"{name} {result['versions'][name]}" for name in ("mlx", "torch") if name in result["versions"]]
    return ", ".join([*filter(None, parts), *versions, f"Python {result['versions']['python']}"])


def case_of(row: Row) -> Case:
    """The case that a row belongs to."""
    names = ("case", "format", "layer", "dtype", "M", "has_g_idx")
    return Case(**{name: row[name] for name in names}, shape=tuple(row["shape"]))


def case_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each case."""
    by_case: dict[Case, list[Row]] = {}
    for row in of_operations(rows):
        by_case.setdefault(case_of(row), []).append(row)
    for case, found in by_case.items():
        yield case_table(case, found)


def case_table(case: Case, rows: Sequence[Row]) -> Table:
    """One case: the fastest provider first."""
    numbers = ("time", "spread", "GB/s", "of copy")
    table = _table(case.title, ("", *numbers, ""), right=numbers)
    for row in rows:
        name = Text(row["provider"], style="green" if is_ours(row["provider"]) else "")
        check = Text(row["check"], style="dim")
        if row["status"] != "timed":
            style = "dim" if row["status"] == "left out" else "red"
            table.add_row(name, "", "", "", "", Text.assemble((row["status"].upper(), style), ": ", check))
            continue
        seconds, share = row["seconds"], row["share_of_copy"]
        spread = f"±{(seconds['high'] - seconds['low']) / 2 / seconds['median']:.0%}"
        rates = (f"{row['gbps']:.3g}", "" if share is None else f"{share:.0%}")
        table.add_row(name, duration(seconds["median"]), spread, *rates, check)
    return table


def other_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Overheads beside their aims, and models by tokens a second."""
    costs = [row for row in rows if row["case"] == "overhead"]
    if costs:
        table = _table("Overhead", ("", "provider", "time", "aim"), right=("time", "aim"))
        for row in costs:
            seconds, aim = row["seconds"]["median"], row["aim"]
            time = Text(duration(seconds), style="yellow" if aim and seconds > aim else "")
            table.add_row(row["what"], row["provider"], time, duration(aim) if aim else "")
        yield table
    models = [row for row in rows if "decode_tokens_per_second" in row]
    if models:
        yield _speed_table(models)
        if any(row.get("launches") is not None for row in models):
            yield _product_table(models)
        if any("experts" in row for row in models):
            yield _expert_table(models)


def _speed_table(rows: Sequence[Row]) -> Table:
    """Decode, then prompts by their length."""
    prompts = list(dict.fromkeys(count for row in rows for count in row.get("prompt_tokens_per_second", {})))
    right = ("decode", *prompts)
    title = "Tokens a second" + (", by a prompt's length" if prompts else "")
    table = _table(title, ("provider", "format", *right, ""), right)
    for row in rows:
        speed = row["decode_tokens_per_second"]
        shown = _rate(speed) if speed else row.get("status", "").upper()
        read = [_rate(row.get("prompt_tokens_per_second", {}).get(count)) for count in prompts]
        table.add_row(row["provider"], _format(row), shown, *read, row.get("check", ""))
    return table


def _product_table(rows: Sequence[Row]) -> Table:
    """What the products of models cost that have one row of x."""
    titles = tuple(PRODUCT_COSTS.values())
    table = _table("Products with one row of x", ("provider", "format", *titles), titles)
    for row in rows:
        if row.get("launches") is not None:
            table.add_row(row["provider"], _format(row), *(_number(row.get(name)) for name in PRODUCT_COSTS))
    return table


def _expert_table(rows: Sequence[Row]) -> Table:
    """A layer of all experts, and the most launches that it has."""
    rows = [row for row in rows if "experts" in row]
    counts = list(dict.fromkeys(count for row in rows for count in row["experts"]["up"]))
    titles = (*counts, "launches")
    table = _table("Experts' products: µs by tokens", ("provider", "format", "layer", *titles), titles)
    for row in rows:
        launches = max(row["experts"]["launches"].values(), default=None)
        for part in ("up", "down"):
            shown = (_number(row["experts"][part].get(count)) for count in counts)
            table.add_row(row["provider"], _format(row), part, *shown, _number(launches))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _format(row: Row) -> str:
    return row["format"] + ACT_ORDER * row.get("has_g_idx", False) + FUSED * row.get("fused", False)


def _rate(tokens: float | None) -> str:
    """Tokens a second; prompts have thousands."""
    return "" if tokens is None else f"{tokens:,.0f}" if tokens >= 1000 else f"{tokens:.1f}"


def change_table(changes: Sequence[Row]) -> Table:
    """What `changes.changes` found."""
    right = ("before", "now", "change")
    table = _table("Changed beyond the noise", ("", "provider", *right), right)
    for change in changes:
        faster = change["ratio"] < 1
        said = f"{1 / change['ratio']:.2f} times as fast" if faster else f"{change['ratio']:.2f} times as long"
        times = [duration(change[name]) for name in ("before", "now")]
        table.add_row(change["case"], change["provider"], *times, Text(said, style="green" if faster else "red"))
    return table


def submit_text(result: Mapping[str, Any]) -> str:
    """Markdown: the machine, a line for each timed row, what is wrong, overheads."""
    lines = [f"mlx-dequant {result['versions']['mlx-dequant']}: {environment_line(result)}", ""]
    lines += ["case format shape rows dtype | provider | time | GB/s | of copy"]
    for row in of_operations(result["rows"]):
        size, kind = "x".join(map(str, row["shape"])), f"{row['format'] or '-'}{'+g_idx' if row['has_g_idx'] else ''}"
        case = f"{row['case']} {kind} {size} {row['M'] or '-'} {row['dtype']}"
        if row["status"] == "timed":
            share = "-" if row["share_of_copy"] is None else f"{row['share_of_copy']:.2f}"
            time = duration(row["seconds"]["median"])
            lines.append(f"{case} | {row['provider']} | {time} | {row['gbps']:.4g} | {share}")
        elif row["status"] != "left out":
            lines.append(f"{case} | {row['provider']} | {row['status']}: {row['check'][:80]}")
    costs = [row for row in result["rows"] if row["case"] == "overhead"]
    lines += ["", *(f"{row['provider']}, {row['what']}: {duration(row['seconds']['median'])}" for row in costs)]
    return "\n".join(["```", *lines, "```", ""])


def _table(title: str, columns: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    return table
