"""The report as one page: style, script and data in it, nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .crossover import crossovers
from .tables import place

FOLDER = Path(__file__).parent


def page(report: Mapping[str, Any]) -> str:
    """HTML of a report, as `report.assembled` makes it."""
    rows = report["rows"]
    data = {"rows": rows, "fixed": report["fixed"], "crossovers": crossovers(rows)}
    # "</script>" in a name would end the script; in JSON, \\u003c is the same letter.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "STYLE": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "PLACE": html.escape(place(rows[0])) if rows else "",
        "VERSION": html.escape(rows[0]["mlx_dequant"]) if rows else "",
        "DATE": html.escape(report["date"]),
        "DATA": text,
        "SCRIPT": (FOLDER / "page.js").read_text(encoding="utf-8"),
    }
    out: list[str] = []
    rest = (FOLDER / "page.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        before, found, rest = rest.partition("{{" + name + "}}")
        assert found, name
        out += [before, value]
    return "".join([*out, rest])
