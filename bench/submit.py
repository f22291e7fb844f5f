"""A compact block to paste into an issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .tables import duration, place

Row = dict[str, Any]


def submit_text(rows: Sequence[Row], costs: Sequence[Row]) -> str:
    """Markdown: the machine, a line for each timed row, what was disqualified, fixed costs."""
    first = rows[0]
    lines = [f"mlx-dequant {first['mlx_dequant']}: {place(first)}", ""]
    lines += ["operation format shape x dtype | contestant | time | GB/s | of copy"]
    for row in rows:
        size = "x".join(map(str, row["shape"]))
        case = f"{row['operation']} {row['format'] or '-'} {size} {row['vectors'] or '-'} {row['dtype']}"
        if row["status"] == "timed":
            rates = f"{row['gbps']:.4g} | {row['copy_share']:.2f}"
            lines.append(f"{case} | {row['contestant']} | {duration(row['seconds'])} | {rates}")
        elif row["status"] != "left out":
            lines.append(f"{case} | {row['contestant']} | {row['status']}: {row['note'][:80]}")
    lines += ["", *(f"{cost['cost']}: {duration(cost['seconds'])}" for cost in costs)]
    return "\n".join(["```", *lines, "```", ""])
