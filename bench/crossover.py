"""Where another contestant becomes faster than ours, or slower, as x gets more rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Row = dict[str, Any]
OURS = "mlx-dequant "


def curves(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, list[tuple[int, float]]]]:
    """(format, layer, dtype) to contestant to (rows of x, seconds), by rows of x."""
    found: dict[tuple[str, str, str], dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if row["operation"] == "linear" and row["status"] == "timed" and row["contestant"] != "copy":
            key = (row["format"], row["layer"], row["dtype"])
            found.setdefault(key, {}).setdefault(row["contestant"], []).append((row["vectors"], row["seconds"]))
    return {key: {name: sorted(points) for name, points in of.items()} for key, of in found.items()}


def crossovers(rows: Sequence[Row]) -> list[Row]:
    """Rows of x at which a line of ours and another's meet, between two measured points.

    Returns:
        Rows with `format`, `layer`, `dtype`, `ours`, `other`, `vectors` (a float, on logarithmic
        scales) and `faster`: who is the faster one beyond it.
    """
    found: list[Row] = []
    for (kind, layer, dtype), of in curves(rows).items():
        for ours in (name for name in of if name.startswith(OURS)):
            for other in (name for name in of if not name.startswith(OURS)):
                for at, faster in meetings(of[ours], of[other]):
                    names = {"ours": ours, "other": other, "faster": other if faster else ours}
                    found.append({"format": kind, "layer": layer, "dtype": dtype, "vectors": at, **names})
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
