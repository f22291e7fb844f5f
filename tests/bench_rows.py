"""Rows as a benchmark makes them, for tests of what is done with rows."""

from __future__ import annotations

from typing import Any


def row(contestant: str = "mlx-dequant host", seconds: float | None = 1e-3, **changes: Any) -> dict[str, Any]:
    """A timed row with a spread of 2 %; without seconds, a disqualified one."""
    timed = seconds is not None
    numbers = {"seconds": seconds, "low": 0.99 * seconds, "high": 1.01 * seconds} if seconds is not None else {}
    rates = (
        {"gbps": 4e-3 / seconds, "copy_gbps": 8.0, "copy_share": 5e-4 / seconds, "gweights": 2e-3 / seconds}
        if seconds
        else {}
    )
    return {
        "operation": "dequantize",
        "format": "q4_k",
        "layer": "Llama-3-8B q_proj",
        "shape": [4096, 4096],
        "vectors": 0,
        "dtype": "float16",
        "contestant": contestant,
        "runs_on": "cpu",
        "status": "timed" if timed else "disqualified",
        "note": "" if timed else "1 of 4 values differ",
        "rounds": 7,
        "chain": 1,
        "bytes": 4_000_000,
        **dict.fromkeys(("seconds", "low", "high", "gbps", "copy_gbps", "copy_share", "gweights")),
        **numbers,
        **rates,
        "backend": "host",
        "device": "A processor",
        "threads": 2,
        "compiler": "clang 19",
        "mlx": "0.32.4",
        "mlx_dequant": "0.1.0",
        "python": "3.11.7",
        "torch": "2.13.0",
        **changes,
    }


def products(contestant: str, times: dict[int, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of products, by rows of x."""
    return [row(contestant, seconds, operation="linear", vectors=m, **changes) for m, seconds in times.items()]


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--json` writes."""
    fixed = [{"cost": "import mlx_dequant", "seconds": 0.4, "aim": 0.5}]
    return {"date": "2026-11-22 12:00 UTC", "absent": {}, "fixed": fixed, "rows": rows}
