"""Results as a benchmark makes them, for tests of what is done with them."""

from __future__ import annotations

from typing import Any


def row(provider: str = "mlx-dequant host", median: float | None = 1e-3, **changes: Any) -> dict[str, Any]:
    """A timed row with a spread of 2 %; without seconds, a wrong one."""
    numbers: dict[str, Any] = dict.fromkeys(("seconds", "rounds", "chain", "bytes", "gbps", "share_of_copy"))
    if median is not None:
        numbers = {
            "seconds": {"min": 0.98 * median, "low": 0.99 * median, "median": median, "high": 1.01 * median},
            **{"rounds": 7, "chain": 1, "bytes": 4_000_000, "gbps": 4e-3 / median, "share_of_copy": 5e-4 / median},
        }
    return {
        "case": "dequantize",
        "format": "q4_k",
        "layer": "Llama-3-8B q_proj",
        "shape": [4096, 4096],
        "dtype": "float16",
        "M": 0,
        "has_g_idx": False,
        "provider": provider,
        "runs_on": "cpu",
        "status": "wrong" if median is None else "timed",
        "check": "1 of 4 values differ" if median is None else "every bit",
        **numbers,
        **changes,
    }


def matmuls(provider: str, times: dict[int, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of matmuls, by rows of x."""
    return [row(provider, seconds, case="linear", M=M, **changes) for M, seconds in times.items()]


def result(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """What `--json` writes."""
    cost = {"case": "overhead", "provider": "mlx-dequant", "what": "import", "seconds": {"median": 0.4}, "aim": 0.3}
    return {
        "schema": 1,
        "date": "2026-11-22 12:00 UTC",
        **{"device": "A processor", "backend": "host", "threads": 2, "compiler": "clang 19", "blas": ""},
        "versions": {"mlx-dequant": "0.1.0", "mlx": "0.32.4", "torch": "2.13.0", "python": "3.11.7"},
        "absent": {},
        "rows": [*rows, cost],
        **changes,
    }
