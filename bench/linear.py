"""Products with packed weights: `python -m bench.linear [--shape OUT IN] [--vectors M ...] [--json FILE] [FORMAT ...]`.

Beside each: the time to read the packed bytes once, MLX's dense product, MLX's own quantized
product of as many bits, and unpacking followed by the dense product. On a GPU products that do not
wait for each other run side by side in part; "in turn" is the time of those that do, in ms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant import dispatch
from mlx_dequant.backends.host import threads

from .dequantize import copy_rate
from .timing import ON_GPU, environment, median_seconds, seconds
from .weights import names, weight

DEFAULT = ("q4_0", "q4_k", "q6_k", "q8_0", "awq4", "gptq4", "gptq4-act", "ct4")
COPIES = 4  # weights in rotation on the host, so that caches do not flatter


def check(name: str, vectors: int) -> None:
    """A smaller product is right, by float64 and the error of float32 sums and one rounding."""
    small = weight(name, 192, 512, seed=1)  # a whole tile, and one that is not
    rng = np.random.default_rng(2)
    x = mx.array(rng.standard_normal((vectors, 512)).astype(np.float16))
    got = np.asarray(small.linear(x)).astype(np.float64)
    with mxd.use_backend("reference"):
        dense = np.asarray(small.dequantize(mx.float32)).astype(np.float64)
    dense = dense if small.by_inputs else dense.T
    exact = np.asarray(x).astype(np.float64) @ dense
    weighed = np.abs(np.asarray(x).astype(np.float64)) @ np.abs(dense)
    # Where the weight is unpacked first, a GPU rounds it to x's type.
    rounding = 2.0**-11 if mxd.current_backend() in ON_GPU and vectors > 16 else 0.0
    bound = (512 * 2.0**-24 + rounding) * weighed + 2.0**-11 * np.abs(exact) * 1.01 + 2.0**-24
    if not (np.abs(got - exact) <= bound).all():
        raise SystemExit(f"{name}: wrong results are not timed")


def read_seconds(weights: list[mxd.QuantizedWeight]) -> float:
    """One pass over the packed bytes on the host: NumPy's sum of 64-bit words, all threads."""
    pool = ThreadPoolExecutor(threads.count())
    arrays = [
        [np.asarray(a).reshape(-1).view(np.uint8) for a in w.inputs.values() if a is not None and a.nbytes > 4096]
        for w in weights
    ]
    words = [[a[: a.size // 8 * 8].view(np.uint64) for a in group] for group in arrays]
    parts = [[p for a in group for p in np.array_split(a, threads.count())] for group in words]
    turn = iter(range(1_000_000))
    return median_seconds(lambda: list(pool.map(np.sum, parts[next(turn) % len(parts)])), rounds=15)


def measure(name: str, outputs: int, inputs: int, vectors: int) -> dict[str, Any]:
    """One row of results."""
    check(name, vectors)
    on_gpu = mxd.current_backend() in ON_GPU
    weights = [weight(name, outputs, inputs, seed) for seed in range(1 if on_gpu else COPIES)]
    count = 4 if not on_gpu else 50 if vectors < 256 else 8  # more than a GPU's cache holds
    xs = [mx.random.normal((vectors, inputs)).astype(mx.float16) for _ in range(count)]
    mx.eval(xs)
    found = weights[0].sort_by_group() if on_gpu else None
    way = dispatch.way(mxd.current_backend(), mx.float16, vectors, found.weight if found else weights[0])
    built = on_gpu and way == "unpacked"
    taken = seconds(
        lambda i: weights[i % len(weights)].linear(xs[i % len(xs)]), rounds=9, chain=10 if built else 50, built=built
    )
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(weights[0].linear(xs[0]))
    extra = max(mx.get_peak_memory() - before - vectors * outputs * 2, 0)
    row: dict[str, Any] = {
        "operation": "linear",
        "format": name,
        "shape": [outputs, inputs],
        "vectors": vectors,
        "dtype": "float16",
        "way": way if on_gpu else None,
        "seconds": taken,
        "gbps": weights[0].nbytes / taken / 1e9,
        "extra_bytes": extra,
        **environment(),
    }
    if on_gpu:
        row["copy_share"] = weights[0].nbytes / taken / copy_rate(8192, 28672)
        row["unpack_first_seconds"] = seconds(lambda i: xs[i % count] @ _dense(weights[0]), rounds=5, chain=10)
        row["in_turn_seconds"] = seconds(_in_turn(weights[0].linear, xs), rounds=5, chain=20, built=built)
    else:
        row["read_seconds"] = read_seconds(weights)
    return row


def _in_turn(product: Callable[[mx.array], mx.array], xs: list[mx.array]) -> Callable[[int], mx.array]:
    """Products that wait for each other, as layers do. A small kernel before each, which is counted, sees to it."""
    after = mx.compile(lambda x, y: x + 0 * y)
    last = mx.zeros((1, 1), mx.float16)

    def make(i: int) -> mx.array:
        nonlocal last
        y = product(after(xs[i % len(xs)], last))
        last = y[:, :1]
        return y

    return make


def _dense(w: mxd.QuantizedWeight) -> mx.array:
    dense = w.dequantize(mx.float16)
    return dense if w.by_inputs else dense.T


def baselines(outputs: int, inputs: int, vectors: int) -> dict[str, float]:
    """Seconds of MLX's dense product, and of its own 4-bit and 8-bit ones, in float16."""
    x = mx.random.normal((vectors, inputs)).astype(mx.float16)
    dense = (mx.random.normal((outputs, inputs)) * 0.02).astype(mx.float16)
    mx.eval(x, dense)
    on_gpu = mxd.current_backend() in ON_GPU
    rounds = 5 if on_gpu else 2
    # For as long as ours: a GPU at its power limit slows down.
    found = {"dense": seconds(lambda i: x @ dense.T, 9 if on_gpu else rounds, chain=50)}
    if on_gpu:
        found["dense in turn"] = seconds(_in_turn(lambda x: x @ dense.T, [x]), rounds, chain=20)
    # MLX's own product is for few vectors; with many, one shape was seen to hang on CUDA.
    for bits in (4, 8) if vectors <= 16 else ():
        packed = mx.quantize(dense, group_size=128, bits=bits)
        mx.eval(packed)
        found[f"mlx {bits}-bit"] = seconds(
            lambda i, q=packed, b=bits: mx.quantized_matmul(x, *q, group_size=128, bits=b), rounds, chain=20
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", help=f"{' '.join(DEFAULT)} by default; 'all' for every one")
    parser.add_argument("--shape", nargs=2, type=int, metavar=("OUT", "IN"))
    parser.add_argument("--vectors", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    on_gpu = mxd.current_backend() in ON_GPU
    outputs, inputs = options.shape or ((8192, 28672) if on_gpu else (4096, 4096))
    chosen = names() if options.formats == ["all"] else options.formats or DEFAULT
    place = environment()
    print(f"{place['device']}, {place['backend']}, {place['threads']} threads, {place['compiler']}, mlx {place['mlx']}")
    rows: list[dict[str, Any]] = []
    for vectors in options.vectors:
        beside = {} if options.no_baselines else baselines(outputs, inputs, vectors)
        print(f"\n{outputs} x {inputs}, {vectors} vectors, float16")
        print("  ".join(f"{name} {taken * 1e3:.3f} ms" for name, taken in beside.items()))
        last = ("of copy", "x unpack", "in turn") if on_gpu else ("x read", "", "")
        heads = zip(("ms", "GB/s", *last, "x dense", "x mlx", "MB more"), (9, 9, 9, 10, 9, 9, 8, 9), strict=True)
        print(f"{'format':<12}" + "".join(f"{head:>{width}}" for head, width in heads))
        for name in chosen:
            row = measure(name, outputs, inputs, vectors)
            row["baselines"] = beside
            rows.append(row)
            taken = row["seconds"]
            first = row["copy_share"] if on_gpu else taken / row["read_seconds"]
            second = f"{row['unpack_first_seconds'] / taken:.2f}" if on_gpu else ""
            third = f"{row['in_turn_seconds'] * 1e3:.3f}" if on_gpu else ""
            dense = f"{beside['dense'] / taken:.2f}" if beside else "-"
            own = beside.get("mlx 8-bit" if "8" in name else "mlx 4-bit")
            mlx = f"{own / taken:.1f}" if own else "-"
            print(
                f"{name:<12}{taken * 1e3:>9.3f}{row['gbps']:>9.1f}{first:>9.2f}{second:>10}{third:>9}{dense:>9}{mlx:>8}"
                f"{row['extra_bytes'] / 1e6:>9.1f}",
                flush=True,
            )
            mx.clear_cache()
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
