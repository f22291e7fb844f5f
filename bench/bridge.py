"""The torch bridge on the CPU: `python -m bench.bridge [--size N] [--sizes MB ...] [--json FILE]`.

Crossing by size, against NumPy's copy of the same bytes into fresh memory in the same run; calls of
vLLM's functions with warm weights against the product alone, and against plain torch.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlx_dequant.bridges import mps_dequant, packed
from mlx_dequant.bridges.torch import count_synchronisations, to_mlx, to_torch

from . import fallback
from .timing import environment, median_seconds
from .weights import weight

SIZES = (0.0625, 1, 4, 16, 64, 256)
Q4_K = 12


def in_turn(calls: dict[str, Callable[[], object]], rounds: int, fresh: bool = False) -> dict[str, float]:
    """Median seconds of each call, one of each a round, in an order that changes.

    Args:
        fresh: let go of what MLX keeps for its next allocation, so that each call has to allocate.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds + 1):
        shuffle(names)
        for name in names:
            if fresh:
                mx.clear_cache()
            start = time.perf_counter()
            result = calls[name]()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def crossing(megabytes: float) -> dict[str, Any]:
    """One size, both ways. In: bytes have to move. Out: none do."""
    tensor = torch.randn(int(megabytes * (1 << 20)) // 2).half()
    array = to_mlx(tensor)
    if not torch.equal(to_torch(array, "cpu"), tensor):
        raise SystemExit("wrong bytes are not timed")
    source = tensor.numpy()

    def copied() -> np.ndarray:
        out = np.empty_like(source)
        np.copyto(out, source)
        return out

    ways_in = {"copy": copied, "mx.array": lambda: mx.array(tensor), "in": lambda: to_mlx(tensor)}
    taken = in_turn(ways_in, rounds=9 if megabytes > 100 else 25, fresh=True)
    taken["out"] = median_seconds(lambda: to_torch(array, "cpu"), rounds=200)
    ratio = taken["in"] / taken["copy"]
    return {"operation": "crossing", "megabytes": megabytes, "seconds": taken, "in_to_copy": ratio}


def tensors(name: str, size: int) -> SimpleNamespace:
    """A square layer of random weights, groups of 128, as torch tensors."""
    inputs = weight(name, size, size).inputs
    return SimpleNamespace(**{key: to_torch(array, "cpu") for key, array in inputs.items() if array is not None})


def products(size: int) -> list[dict[str, Any]]:
    """One token through square layers: the call, the product alone, plain torch."""
    x = torch.randn(1, size).half()
    across = to_mlx(x)
    config = SimpleNamespace(group_size=128, pack_factor=8)
    awq, gptq = tensors("awq4", size), tensors("gptq4", size)
    gptq.g_idx = torch.empty(0, dtype=torch.int32)
    blocks = tensors("q4_k", size).blocks
    held = {
        "awq": packed.awq(awq.qweight, awq.scales, awq.qzeros, 128),
        "gptq": packed.gptq(gptq.qweight, gptq.scales, gptq.qzeros, None, 128, "v1-field"),
        "gguf": packed.gguf(blocks, Q4_K, size, size),
    }
    calls: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], Callable[[], Any]]] = {
        "awq_dequant_matmul": (
            lambda: mps_dequant.awq_dequant_matmul(x, awq, None, config),
            lambda: fallback.awq(x, awq, 128),
            lambda: mx.eval(held["awq"].linear(across)),
        ),
        "gptq_dequant_matmul": (
            lambda: mps_dequant.gptq_dequant_matmul(x, gptq, None, config),
            lambda: fallback.gptq(x, gptq, 128),
            lambda: mx.eval(held["gptq"].linear(across)),
        ),
        "gguf_dequant_on_mps": (
            lambda: mps_dequant.gguf_dequant_on_mps(blocks, Q4_K, size, size),
            lambda: fallback.unpacked(blocks, Q4_K),
            lambda: mx.eval(held["gguf"].dequantize(mx.float16)),
        ),
    }
    return [compared(name, size, *call) for name, call in calls.items()]


def compared(
    name: str,
    size: int,
    call: Callable[[], torch.Tensor],
    plain: Callable[[], torch.Tensor],
    alone: Callable[[], Any],
) -> dict[str, Any]:
    """One function: equal first, then timed."""
    with count_synchronisations() as counts:
        found = call().double()
    expected = plain().double()
    # Plain torch rounds every weight to float16 before it multiplies.
    if (found - expected).abs().max() > 2e-3 * expected.abs().max():
        raise SystemExit(f"{name}: wrong results are not timed")
    slow = median_seconds(plain, rounds=5)
    # Torch's threads spin for a while after their work, and would slow down what follows.
    time.sleep(0.5)
    taken = in_turn({"alone": alone, "call": call}, rounds=201)
    return {
        "operation": name,
        "size": size,
        "seconds": {**taken, "plain": slow},
        "overhead": taken["call"] - taken["alone"],
        "faster": slow / taken["call"],
        "waits": {"torch": counts.torch, "mlx": counts.mlx},
    }


def show(row: dict[str, Any]) -> None:
    taken = {name: 1e6 * seconds for name, seconds in row["seconds"].items()}
    if row["operation"] == "crossing":
        print(
            f"{row['megabytes']:>9g} MB  copy {taken['copy']:>9.0f}  mx.array {taken['mx.array']:>9.0f}  "
            f"in {taken['in']:>9.0f} ({row['in_to_copy']:.2f} of a copy)  out {taken['out']:>6.1f}"
        )
        return
    waits, shape = row["waits"], f"{row['size']}x{row['size']}"
    print(
        f"{row['operation']:<20}{shape:<10} call {taken['call']:>7.0f}  alone {taken['alone']:>7.0f}  "
        f"overhead {1e6 * row['overhead']:>4.0f}  plain torch {taken['plain']:>8.0f} ({row['faster']:.1f} times)  "
        f"waits for torch {waits['torch']}, for MLX {waits['mlx']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs of the layers")
    parser.add_argument("--sizes", type=float, nargs="*", default=SIZES, help="megabytes that cross")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    about = {**environment(), "torch": torch.__version__}
    print(json.dumps(about))
    print("microseconds")
    rows: list[dict[str, Any]] = []
    for megabytes in options.sizes:
        rows.append(crossing(megabytes))
        show(rows[-1])
    # Small products, where the bridge's own cost shows, then the size of a real layer.
    for row in [*products(256), *products(options.size)]:
        rows.append(row)
        show(row)
    if options.json:
        options.json.write_text(json.dumps({"environment": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
