"""Unpacking to float16, every format: `python -m bench.dequantize [--shape OUT IN] [--json FILE] [FORMAT ...]`.

Bytes are those read packed plus those written. On the host the share is of `numpy.copyto` into a
fresh array of the same size as the result, since a result is always fresh memory; on a GPU it is of
a device-to-device copy, by bytes a second.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.backends.host.dequantize import unpack
from mlx_dequant.backends.host.library import library
from mlx_dequant.backends.launch import whole

from .timing import ON_GPU, environment, median_seconds, seconds
from .weights import names, weight

ROWS_CHECKED = 64


def check(w: mxd.QuantizedWeight, name: str, outputs: int, inputs: int) -> None:
    """A smaller weight of the same kind is unpacked right, to the bit."""
    small = weight(name, max(ROWS_CHECKED, 32), inputs, seed=1)
    got = small.dequantize(mx.float16)
    with mxd.use_backend("reference"):
        expected = small.dequantize(mx.float16)
    if not np.array_equal(np.asarray(got).view(np.uint16), np.asarray(expected).view(np.uint16)):
        raise SystemExit(f"{name}: wrong results are not timed")


def copy_rate(outputs: int, inputs: int) -> float:
    """Bytes a second, read plus written, of a copy of a result."""
    size = outputs * inputs * 2
    if mxd.current_backend() not in ON_GPU:
        source = np.ones(size, np.uint8)
        return 2 * size / median_seconds(lambda: np.copyto(np.empty_like(source), source))
    try:
        import torch

        if torch.cuda.is_available():
            given, out = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))

            def copies() -> None:
                for _ in range(20):
                    out.copy_(given)
                torch.cuda.synchronize()

            return 2 * size / (median_seconds(copies) / 20)
    except ImportError:
        pass
    source_ = mx.ones((outputs, inputs), mx.float16)
    return 2 * size / seconds(lambda i: mx.negative(source_))


def beside_copy(w: mxd.QuantizedWeight, rounds: int = 41) -> tuple[float, float]:
    """Seconds of unpacking on the host and of a copy of the result's size, turn by turn.

    Fresh memory comes at the machine's mood, slowly at first, so both take it in the same rounds.
    """
    source = np.ones(w.size * 2, np.uint8)
    turns: tuple[Callable[[], object], ...] = (
        lambda: w.dequantize(mx.float16),
        lambda: np.copyto(np.empty_like(source), source),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 5):
        for call, taken in zip(turns, times, strict=True):
            start = time.perf_counter()
            result = call()
            if turn >= 5:
                taken.append(time.perf_counter() - start)
            del result
    return statistics.median(times[0]), statistics.median(times[1])


def warm_seconds(w: mxd.QuantizedWeight) -> float:
    """The decode alone, into memory that is there."""
    out = np.empty((w.rows, w.columns), np.float16)
    run = library(w, "dequantize", mx.float16)
    assert run is not None
    return median_seconds(lambda: unpack(run, w, whole(w), out.ctypes.data))


def gguf_seconds(w: mxd.QuantizedWeight) -> float | None:
    """gguf-py's time for the whole weight, to float32, which is all it gives."""
    if w.format.family != "gguf":
        return None
    with mxd.use_backend("reference"):
        return median_seconds(lambda: mx.eval(w.dequantize(mx.float32)), rounds=3)


def measure(name: str, outputs: int, inputs: int) -> dict[str, Any]:
    """One row of results."""
    w = weight(name, outputs, inputs)
    check(w, name, outputs, inputs)
    on_gpu = mxd.current_backend() in ON_GPU
    if on_gpu:
        rate, taken = copy_rate(outputs, inputs), seconds(lambda i: w.dequantize(mx.float16))
    else:
        taken, copied = beside_copy(w)
        rate = w.size * 4 / copied
    moved = w.nbytes + w.size * 2
    row: dict[str, Any] = {
        "operation": "dequantize",
        "format": name,
        "shape": [outputs, inputs],
        "dtype": "float16",
        "seconds": taken,
        "gbps": moved / taken / 1e9,
        "copy_gbps": rate / 1e9,
        **environment(),
    }
    if on_gpu:
        row["copy_share"] = moved / taken / rate
    else:
        row["copy_share"] = w.size * 4 / rate / taken
        if row["backend"] == "host":
            row["warm_seconds"] = warm_seconds(w)
        slow = gguf_seconds(w)
        row["times_gguf_py"] = slow / taken if slow else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", help="all of them by default")
    parser.add_argument("--shape", nargs=2, type=int, metavar=("OUT", "IN"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    on_gpu = mxd.current_backend() in ON_GPU
    outputs, inputs = options.shape or ((1 << 14, 1 << 15) if on_gpu else (4096, 4096))
    place = environment()
    print(f"{place['device']}, {place['backend']}, {place['threads']} threads, {place['compiler']}, mlx {place['mlx']}")
    print(f"{outputs} x {inputs} to float16")
    print(f"{'format':<12}{'ms':>9}{'GB/s':>9}{'of copy':>9}{'warm ms':>9}{'x gguf-py':>11}")
    rows: list[dict[str, Any]] = []
    for name in options.formats or names():
        if name == "f16":
            continue  # its own type: no kernel runs
        row = measure(name, outputs, inputs)
        rows.append(row)
        warm, times = row.get("warm_seconds"), row.get("times_gguf_py")
        print(
            f"{name:<12}{row['seconds'] * 1e3:>9.3f}{row['gbps']:>9.1f}{row['copy_share']:>9.2f}"
            f"{f'{warm * 1e3:.2f}' if warm else '-':>9}{f'{times:.0f}' if times else '-':>11}",
            flush=True,
        )
        mx.clear_cache()
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory {peak / 1e6:.0f} MB of the process; MLX {mx.get_peak_memory() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
