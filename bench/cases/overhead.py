"""What a call costs that does next to nothing: the import, a kernel's first call, a small warm call, a launch."""

from __future__ import annotations

import tempfile
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd

from ...diagnostics.sample_weights import layer
from ...diagnostics.timing import Samples, in_child, overhead

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

CHAIN = 100


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    """A row for each cost, with the aim where there is one."""
    with tempfile.TemporaryDirectory() as cache:
        folders = {"MLX_DEQUANT_CACHE": cache, "MLX_PTX_CACHE_DIR": cache}
        cold, warm = (in_child(FIRST, folders) for _ in range(2))
    package, libraries = (
        Samples([in_child(IMPORT.format(name)) for _ in range(rounds)]).median
        for name in ("mlx_dequant, mlx_dequant.weights", "mlx.core, numpy")
    )
    kind = mxd.current_backend()
    found = [
        _row("mlx-dequant", "import mlx_dequant", package, 0.5),
        _row("mlx", "import mlx and numpy", libraries),
        _row(f"mlx-dequant {kind}", "first call of a kernel, nothing cached", cold, 1.0),
        _row(f"mlx-dequant {kind}", "first call of a kernel, cached", warm),
    ]
    for name in mxd.available_backends():
        if name != "reference":
            with mxd.use_backend(name):
                found += _small_calls(name)
    x = mx.ones(256)
    found.append(_row("mlx", "one operation, waited for", overhead(lambda: mx.eval(x + 1))))
    chained = overhead(lambda: mx.eval([x + i for i in range(CHAIN)])) / CHAIN
    return [*found, _row("mlx", "one operation, of a chain", chained), *_torch_launches()]


def _small_calls(backend: str) -> list[dict[str, Any]]:
    """Warm calls on a weight so small that nothing but the call counts."""
    weight, x = layer("q4_k", 32, 256), mx.ones((1, 256), mx.float16)
    mx.eval(x)
    calls = {"dequantize": lambda: weight.dequantize(mx.float16), "linear": lambda: weight.linear(x)}
    aims = {"dequantize": 50e-6 if backend == "host" else None}
    seconds = {name: overhead(lambda call=call: mx.eval(call())) for name, call in calls.items()}
    return [_row(f"mlx-dequant {backend}", f"small {name}, warm", seconds[name], aims.get(name)) for name in calls]


def _torch_launches() -> list[dict[str, Any]]:
    try:
        import torch

        from ..providers import torch_devices
        from ..providers.torch_plain import synchronised
    except ImportError:
        return []
    found: list[dict[str, Any]] = []
    for device in torch_devices():
        x, wait = torch.ones(256, device=device), synchronised(device)
        alone = overhead(lambda x=x, wait=wait: wait([x + 1]))
        chained = overhead(lambda x=x, wait=wait: wait([x + i for i in range(CHAIN)])) / CHAIN
        found.append(_row(f"torch {device}", "one operation, waited for", alone))
        found.append(_row(f"torch {device}", "one operation, of a chain", chained))
    return found


def _row(provider: str, what: str, seconds: float, aim: float | None = None) -> dict[str, Any]:
    return {"case": "overhead", "provider": provider, "what": what, "seconds": {"median": seconds}, "aim": aim}
