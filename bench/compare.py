"""What changed between two runs, beyond the noise of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

KEY = ("operation", "format", "layer", "shape", "vectors", "dtype", "contestant", "runs_on")
LEAST = 0.03  # of the median: smaller changes are nobody's concern


def key(row: Row) -> tuple[Any, ...]:
    """What makes two rows the same measurement."""
    return tuple(tuple(value) if isinstance(value, list) else value for value in (row.get(name) for name in KEY))


def beyond_noise(old: Row, new: Row) -> bool:
    """Whether the quartiles of two rows do not meet, and the medians are 3 % apart."""
    apart = new["low"] > old["high"] or new["high"] < old["low"]
    return apart and abs(new["seconds"] / old["seconds"] - 1) > LEAST


def changes(before: Sequence[Row], now: Sequence[Row]) -> dict[str, Any]:
    """Compares rows that both runs have.

    Returns:
        "changed": rows with `case`, `contestant`, `before`, `now` (seconds) and `ratio`, the largest
        change first; "broken": rows timed before and not now; counts "same", "added", "removed";
        "places": the differences of machine and versions.
    """
    old = {key(row): row for row in before}
    new = {key(row): row for row in now}
    both = [name for name in new if name in old]
    timed = [name for name in both if old[name]["status"] == new[name]["status"] == "timed"]
    changed = [_change(old[name], new[name]) for name in timed if beyond_noise(old[name], new[name])]
    changed.sort(key=lambda change: -max(change["ratio"], 1 / change["ratio"]))
    broken = [new[name] for name in both if old[name]["status"] == "timed" and new[name]["status"] != "timed"]
    return {
        "changed": changed,
        "broken": broken,
        "same": len(timed) - len(changed),
        "added": len(new) - len(both),
        "removed": len(old) - len(both),
        "places": _places(before, now),
    }


def title(row: Row) -> str:
    """A row's case, in words."""
    count = f"{row['vectors']} x" if row["vectors"] else ""
    parts = [row["operation"], row["format"], count, row["dtype"], row["layer"]]
    return " ".join(part for part in parts if part)


def _change(old: Row, new: Row) -> Row:
    return {
        "case": title(new),
        "contestant": new["contestant"],
        "before": old["seconds"],
        "now": new["seconds"],
        "ratio": new["seconds"] / old["seconds"],
    }


def _places(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    if not before or not now:
        return []
    names = ("device", "backend", "threads", "compiler", "mlx_dequant", "mlx", "torch", "python")
    pairs = [(name, before[0].get(name), now[0].get(name)) for name in names]
    return [f"{name}: {old} before, {new} now" for name, old, new in pairs if old != new]
