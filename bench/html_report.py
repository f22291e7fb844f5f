"""The report as one page: style, script and data in it, nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .crossings import crossovers
from .report import environment_line
from .results import of_operations

FOLDER = Path(__file__).parent


def html_report(result: Mapping[str, Any]) -> str:
    """HTML of results, as `results.assembled` makes them."""
    rows = of_operations(result["rows"])
    costs = [row for row in result["rows"] if row["case"] == "overhead"]
    data = {"rows": rows, "overhead": costs, "crossovers": crossovers(rows)}
    parts = {
        "STYLE": (FOLDER / "html_report.css").read_text(encoding="utf-8"),
        "ENVIRONMENT": html.escape(environment_line(result)),
        "VERSION": html.escape(result["versions"]["mlx-dequant"]),
        "DATE": html.escape(result["date"]),
        # "</script>" in a name would end the script; in JSON, \\u003c is the same letter.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "SCRIPT": (FOLDER / "html_report.js").read_text(encoding="utf-8"),
    }
    out: list[str] = []
    rest = (FOLDER / "html_report.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        before, found, rest = rest.partition("{{" + name + "}}")
        assert found, name
        out += [before, value]
    return "".join([*out, rest])
