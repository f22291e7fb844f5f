"""Where another provider becomes faster than ours, or slower, as x gets more rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .results import is_ours, is_timed

Row = dict[str, Any]


def curves(rows: Sequence[Row]) -> dict[tuple[str, bool, str, str], dict[str, list[tuple[int, float]]]]:
    """(format, has_g_idx, layer, dtype) to provider to (rows of x, seconds), by rows of x."""
    found: dict[tuple[str, bool, str, str], dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if row["case"] == "linear" and is_timed(row):
            key = (row["format"], row["has_g_idx"], row["layer"], row["dtype"])
            found.setdefault(key, {}).setdefault(row["provider"], []).append((row["M"], row["seconds"]["median"]))
    return {key: {name: sorted(points) for name, points in of.items()} for key, of in found.items()}


def crossovers(rows: Sequence[Row]) -> list[Row]:
    """Rows of x at which a line of ours and another's meet, between two measured points.

    Returns:
        Rows with `format`, `has_g_idx`, `layer`, `dtype`, `ours`, `other`, `M` (a float, on logarithmic
        scales) and `faster`: who is the faster one beyond it.
    """
    found: list[Row] = []
    for key, of in curves(rows).items():
        for ours in (name for name in of if is_ours(name)):
            for other in (name for name in of if not is_ours(name)):
                for at, faster in meetings(of[ours], of[other]):
                    names = {"ours": ours, "other": other, "faster": other if faster else ours}
                    named = dict(zip(("format", "has_g_idx", "layer", "dtype"), key, strict=True))
                    found.append({**named, "M": at, **names})
    return found


def meetings(ours: list[tuple[int, float]], other: list[tuple[int, float]]) -> list[tuple[float, bool]]:
    """Where two lines of (rows of x, seconds) meet, and whether the other is faster beyond."""
    theirs = dict(other)
    shared = [(m, math.log(theirs[m] / seconds)) for m, seconds in ours if m in theirs]
    found: list[tuple[float, bool]] = []
    for (m, lead), (n, next_lead) in pairwise(shared):
        if (lead > 0) != (next_lead > 0):
            share = lead / (lead - next_lead)
            found.append((m * (n / m) ** share, next_lead < 0))
    return found
