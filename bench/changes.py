"""What changed between two runs, beyond the noise of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .report import case_of
from .results import of_operations

Row = dict[str, Any]

KEY = ("case", "format", "has_g_idx", "layer", "shape", "M", "dtype", "provider", "runs_on")
LEAST = 0.03  # of the median: smaller changes are nobody's concern


def key(row: Row) -> tuple[Any, ...]:
    """What makes two rows the same measurement."""
    return tuple(tuple(value) if isinstance(value, list) else value for value in (row.get(name) for name in KEY))


def beyond_noise(old: Row, new: Row) -> bool:
    """Whether the quartiles of two rows do not meet, and the medians are 3 % apart."""
    then, now = old["seconds"], new["seconds"]
    apart = now["low"] > then["high"] or now["high"] < then["low"]
    return apart and abs(now["median"] / then["median"] - 1) > LEAST


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Compares rows that both results have.

    Returns:
        "changed": rows with `case`, `provider`, `before`, `now` (seconds) and `ratio`, the largest
        change first; "broken": rows timed before and not now; counts "same", "added", "removed";
        "environments": the differences of machine and versions.
    """
    old, new = ({key(row): row for row in of_operations(result["rows"])} for result in (before, now))
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
        "environments": _environments(before, now),
    }


def _change(old: Row, new: Row) -> Row:
    return {
        "case": case_of(new).title,
        "provider": new["provider"],
        "before": old["seconds"]["median"],
        "now": new["seconds"]["median"],
        "ratio": new["seconds"]["median"] / old["seconds"]["median"],
    }


def _environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of machine and versions, a sentence each."""
    old, new = (
        {name: result.get(name) for name in ("device", "backend", "threads", "compiler")} | result["versions"]
        for result in (before, now)
    )
    names = [name for name in (*new, *(name for name in old if name not in new)) if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name, 'none')} before, {new.get(name, 'none')} now" for name in names]
