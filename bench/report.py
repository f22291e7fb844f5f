"""A run's results as one value, and as files: JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlx_dequant.errors import FormatError

from . import older

Row = dict[str, Any]

# What a row must have to be shown and compared.
NEEDED = (
    "operation", "format", "layer", "shape", "vectors", "dtype", "contestant", "runs_on", "status", "note", "seconds",
    "low", "high", "gbps", "copy_gbps", "copy_share", "gweights", "backend", "device", "threads", "compiler", "mlx",
    "mlx_dequant", "python",
)  # fmt: skip


def assembled(rows: Sequence[Row], fixed: Sequence[Row], absent: dict[str, str]) -> dict[str, Any]:
    """Results with the time they were made at; `absent` says why a contestant took no part."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": date, "absent": absent, "fixed": list(fixed), "rows": list(rows)}


def read(path: str) -> dict[str, Any]:
    """Results that `--json` wrote, here or for `bench.dequantize` and `bench.linear` on a GPU.

    Raises:
        FormatError: the file holds something else.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: found no JSON ({error}), expected results of `mlx-dequant bench --json`") from None
    if isinstance(report, list) and report:
        return {"date": "", "absent": {}, "fixed": [], "rows": older.rows(report)}
    if not isinstance(report, dict) or not {"date", "fixed", "rows"} <= set(report) or not report["rows"]:
        raise FormatError(f"{path}: found no rows, expected results of `mlx-dequant bench --json`")
    for row in report["rows"]:
        missing = [name for name in NEEDED if name not in row]
        if missing:
            raise FormatError(f"{path}: found a row without {', '.join(missing)}, expected those of this release")
    return report


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV, a column for each name that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "shape": "x".join(map(str, row["shape"]))})
    return out.getvalue()
