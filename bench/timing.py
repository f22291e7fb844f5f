"""How things are timed: after a warm-up, several rounds, the median. On a GPU, chains in one evaluation."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

import mlx_dequant as mxd
from mlx_dequant.backends.host import threads
from mlx_dequant.backends.host.compiler import compiler

ON_GPU = ("metal", "cuda")


def median_seconds(call: Callable[[], object], rounds: int = 7) -> float:
    """Median time of `call`, which ends with its result in memory. One call before is not counted."""
    call()
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result
    return statistics.median(times)


def seconds(make: Callable[[int], mx.array], rounds: int = 7, chain: int = 40, built: bool = False) -> float:
    """Time of one `make(i)`. A GPU gets `chain` of them in one evaluation.

    Building the graph is not counted, unless it is `built`: unpacking in parts evaluates them on the way.
    """
    if mxd.current_backend() not in ON_GPU:
        turn = iter(range(1_000_000))
        return median_seconds(lambda: mx.eval(make(next(turn))), rounds)

    times: list[float] = []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        results = [make(i) for i in range(chain)]
        start = start if built else time.perf_counter()
        mx.eval(results)
        mx.synchronize()
        times.append(time.perf_counter() - start)
        del results
        if turn == 0:
            times.clear()  # the programs were compiled
    return statistics.median(times) / chain


def environment() -> dict[str, str | int]:
    """What a row of results must say of where it was measured."""
    backend = mxd.current_backend()
    tool = compiler() if backend == "host" else None
    return {
        "backend": backend,
        "device": _device(backend),
        "threads": threads.count(),
        "compiler": tool.version.splitlines()[0] if tool else "",
        "mlx": version("mlx"),
        "mlx_dequant": mxd.__version__,
        "python": platform.python_version(),
    }


def _device(backend: str) -> str:
    if backend in ON_GPU:
        return str(mx.device_info().get("device_name", backend))
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
