"""What the others are measured against: a copy that moves as many bytes as a case counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.backends.host import threads

from ...backends import GPUS
from ...diagnostics.compare import as_float32
from ...diagnostics.timing import done
from ..data import turns
from . import Ready
from .ours import wait

NAME = "copy"


def ready(nbytes: int, fresh: bool) -> Ready:
    """A copy by the fastest means here.

    Args:
        nbytes: read and written together.
        fresh: whether each copy gets new memory, as a new result does; matters on the CPU alone.
    """
    size = max(nbytes // 2, 64)
    if mxd.current_backend() not in GPUS:
        return Ready(_host(size, fresh), done, np.copy)
    cuda = _cuda(size) if mxd.current_backend() == "cuda" else None
    if cuda is not None:
        return cuda
    sources = [mx.zeros(size // 2, mx.float16) for _ in range(turns(size))]
    mx.eval(sources)
    return Ready(lambda i: mx.negative(sources[i % len(sources)]), wait, as_float32)


def _host(size: int, fresh: bool) -> Callable[[int], np.ndarray]:
    """On as many threads as we use."""
    count = turns(2 * size)
    sources = [np.ones(size, np.uint8) for _ in range(count)]
    kept = [np.ones(0 if fresh else size, np.uint8) for _ in range(count)]
    # A thread of Python that waits for another costs more than it saves below some megabytes.
    workers = threads.count() if size >= threads.count() << 19 else 1
    edges = [size * part // workers for part in range(workers + 1)]
    pool = ThreadPoolExecutor(workers)

    def call(i: int) -> np.ndarray:
        source, out = sources[i % count], np.empty(size, np.uint8) if fresh else kept[i % count]
        copies = [pool.submit(np.copyto, out[begin:end], source[begin:end]) for begin, end in pairwise(edges[1:])]
        np.copyto(out[: edges[1]], source[: edges[1]])
        for copy in copies:
            copy.result()
        return out

    return call


def _cuda(size: int) -> Ready | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    pairs = [[torch.zeros(size, dtype=torch.uint8, device="cuda") for _ in range(2)] for _ in range(turns(2 * size))]

    def call(i: int) -> Any:
        source, out = pairs[i % len(pairs)]
        return out.copy_(source)

    return Ready(call, lambda results: torch.cuda.synchronize(), lambda result: result.cpu().numpy())
