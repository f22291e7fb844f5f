"""Results of `bench.dequantize` and `bench.linear` on a GPU, as rows of this benchmark.

"MLX 4-bit" there is MLX's own format of as many bits, not the same codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mlx_dequant.errors import FormatError

Row = dict[str, Any]


def rows(given: Sequence[Row]) -> list[Row]:
    """Our row for each, and rows of what was measured beside it.

    Raises:
        FormatError: the rows are of something else, or come from the host, where they name no copy.
    """
    needed = {"operation", "format", "shape", "dtype", "seconds", "gbps", "backend", "device"}
    if not all(isinstance(row, dict) and needed <= set(row) for row in given):
        raise FormatError("found rows of something else, expected those of `bench.dequantize` or `bench.linear`")
    if any(row["backend"] not in ("cuda", "metal") or not row.get("copy_share") for row in given):
        raise FormatError("found rows without a GPU's copy, expected `mlx-dequant bench` for the host")
    return [found for row in given for found in _rows(row)]


def _rows(row: Row) -> Iterator[Row]:
    yield _row(row, f"mlx-dequant {row['backend']}", row["seconds"])
    beside: Row = row.get("baselines", {})
    own = "mlx 8-bit" if "8" in row["format"] else "mlx 4-bit"
    if own in beside:
        yield _row(row, f"MLX {own[4:]}", beside[own])
    if "dense" in beside:
        yield _row(row, "MLX dense", beside["dense"])
    if "unpack_first_seconds" in row:
        yield _row(row, "unpacked, then MLX dense", row["unpack_first_seconds"])


def _row(row: Row, contestant: str, seconds: float) -> Row:
    bytes_moved = row["gbps"] * row["seconds"]
    rate = row["gbps"] / row["copy_share"]
    place = ("backend", "device", "threads", "compiler", "mlx", "mlx_dequant", "python")
    return {
        **{name: row[name] for name in ("operation", "format", "shape", "dtype")},
        "layer": "a layer",
        "vectors": row.get("vectors", 0),
        "contestant": contestant,
        "runs_on": row["backend"],
        "status": "timed",
        "note": "",
        **dict.fromkeys(("seconds", "low", "high"), seconds),
        "gbps": bytes_moved / seconds,
        "copy_gbps": rate,
        "copy_share": bytes_moved / seconds / rate,
        "gweights": math.prod(row["shape"]) / seconds / 1e9,
        **{name: row.get(name, "") for name in place},
    }
