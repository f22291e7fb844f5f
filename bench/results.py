"""A run's results: one schema, as a value, as JSON and as CSV.

    {"schema": 1, "date", "device", "backend", "threads", "compiler", "blas", "versions": {...}, "absent": {...},
     "rows": [{"case", "provider", ...}]}

A row of an operation has the fields of `cases.Case` (case, format, layer, shape, dtype, M, has_g_idx), "provider",
"runs_on", "status" ("timed", "wrong", "failed", "left out"), "check" (what was checked, or what is wrong), "seconds"
(min, low, median, high; null unless timed), "rounds", "chain", "bytes", "gbps" and "share_of_copy". Rows of other
cases (overhead, generation, decode) have fields of their own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..diagnostics.environment import environment
from ..errors import FormatError
from .cases import OPERATIONS

Row = dict[str, Any]
SCHEMA = 1
TOP = ("schema", "date", "device", "backend", "threads", "compiler", "versions", "rows")
FIELDS = (
    "format", "layer", "shape", "dtype", "M", "has_g_idx", "runs_on", "status", "check", "seconds", "bytes", "gbps",
    "share_of_copy",
)  # fmt: skip
CSV_SECONDS = ("min", "low", "median", "high")


def assembled(rows: Sequence[Row], absent: Mapping[str, str]) -> dict[str, Any]:
    """Results with the machine and the time they were made at; `absent` says why a provider took no part."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {"schema": SCHEMA, "date": date, **environment(), "absent": dict(absent), "rows": list(rows)}


def read(path: str | Path) -> dict[str, Any]:
    """Results that `--json` wrote.

    Raises:
        FormatError: the file holds something else.
    """
    expected = "expected results of `mlx-dequant bench --json`"
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: found no JSON ({error}), {expected}") from None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise FormatError(f"{path}: found no schema {SCHEMA}, {expected}")
    missing = [name for name in TOP if name not in result]
    if missing or not result["rows"]:
        raise FormatError(f"{path}: found no {', '.join(missing) or 'rows'}, {expected}")
    for row in result["rows"]:
        needed = ("case", "provider", *(FIELDS if row.get("case") in OPERATIONS else ()))
        missing = [name for name in needed if name not in row]
        if missing:
            raise FormatError(f"{path}: found a row without {', '.join(missing)}, expected those of schema {SCHEMA}")
    return result


def of_operations(rows: Sequence[Row]) -> list[Row]:
    """The rows that compare providers at an operation."""
    return [row for row in rows if row["case"] in OPERATIONS]


def is_timed(row: Row) -> bool:
    """Whether a provider was right and has a time, other than the copy's."""
    return row["status"] == "timed" and row["provider"] != "copy"


def is_ours(provider: str) -> bool:
    """Whether this package computed it."""
    return provider.startswith("mlx-dequant")


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV, a column for each field that any of them has."""
    flat: list[Row] = []
    for row in rows:
        seconds = row.get("seconds") or {}
        named = {f"seconds_{name}": seconds.get(name) for name in CSV_SECONDS}
        shape = {"shape": "x".join(map(str, row["shape"]))} if "shape" in row else {}
        prompts = {f"prompt_{count}": speed for count, speed in row.get("prompt_tokens_per_second", {}).items()}
        experts = {f"experts_{part}_{n}": v for part, of in row.get("experts", {}).items() for n, v in of.items()}
        nested = ("seconds", "prompt_tokens_per_second", "experts")
        plain = {name: value for name, value in row.items() if name not in nested}
        flat.append(plain | named | shape | prompts | experts)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()
