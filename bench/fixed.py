"""Fixed costs: the import, a program's first call, a small warm call, a launch."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd

from .weights import weight

IMPORT = """
import time
begin = time.perf_counter()
import {}
print(time.perf_counter() - begin)
"""

FIRST = """
import time
import mlx.core as mx, numpy as np, mlx_dequant as mxd
mx.eval(mx.ones(8) + 1)
weight = mxd.GGUFWeight(np.zeros((32, 144), np.uint8), "Q4_K")
begin = time.perf_counter()
mx.eval(weight.dequantize(mx.float16))
print(time.perf_counter() - begin)
"""

CALLS = 300
CHAIN = 100


def fixed_costs(rounds: int = 3) -> list[dict[str, Any]]:
    """What each costs in seconds, and the aim where there is one."""
    backend = mxd.current_backend()
    with tempfile.TemporaryDirectory() as cache:
        cold = child(FIRST, {"MLX_DEQUANT_CACHE": cache, "MLX_PTX_CACHE_DIR": cache})
        warm = child(FIRST, {"MLX_DEQUANT_CACHE": cache, "MLX_PTX_CACHE_DIR": cache})
    whole, part = (
        statistics.median(child(IMPORT.format(name)) for _ in range(rounds))
        for name in ("mlx_dequant", "mlx.core, numpy")
    )
    rows = [
        cost("import mlx_dequant", whole, 0.5),
        cost("of that, mlx and numpy", part),
        cost(f"first call of a program, nothing cached ({backend})", cold, 1.0),
        cost(f"first call of a program, cached ({backend})", warm),
    ]
    for name in mxd.available_backends():
        if name != "reference":
            with mxd.use_backend(name):
                rows += small_calls(name)
    x = mx.ones(256)
    rows.append(cost("one MLX operation, evaluated alone", each(lambda: mx.eval(x + 1))))
    rows.append(cost("one MLX operation, of a chain", each(lambda: mx.eval([x + i for i in range(CHAIN)])) / CHAIN))
    return rows + torch_launches()


def torch_launches() -> list[dict[str, Any]]:
    """The same of torch, on each of its devices."""
    try:
        import torch

        from .contestants import torch_devices
        from .contestants.torch_plain import synchronised
    except ImportError:
        return []
    rows: list[dict[str, Any]] = []
    for device in torch_devices():
        x, wait = torch.ones(256, device=device), synchronised(device)
        alone = each(lambda x=x, wait=wait: wait([x + 1]))
        chained = each(lambda x=x, wait=wait: wait([x + i for i in range(CHAIN)])) / CHAIN
        rows.append(cost(f"one torch operation, waited for ({device})", alone))
        rows.append(cost(f"one torch operation, of a chain ({device})", chained))
    return rows


def small_calls(backend: str) -> list[dict[str, Any]]:
    """A warm call on a weight so small that nothing but the call counts."""
    w = weight("q4_k", 32, 256)
    x = mx.ones((1, 256), mx.float16)
    mx.eval(x)
    aim = 50e-6 if backend == "host" else None
    return [
        cost(f"small dequantize, warm ({backend})", each(lambda: mx.eval(w.dequantize(mx.float16))), aim),
        cost(f"small linear, warm ({backend})", each(lambda: mx.eval(w.linear(x))), aim),
    ]


def cost(name: str, seconds: float, aim: float | None = None) -> dict[str, Any]:
    return {"cost": name, "seconds": seconds, "aim": aim}


def each(call: Callable[[], object]) -> float:
    """Median seconds of a call that was made before."""
    taken: list[float] = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[CALLS // 10 :])


def child(code: str, environment: dict[str, str] | None = None) -> float:
    """What a Python process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)
