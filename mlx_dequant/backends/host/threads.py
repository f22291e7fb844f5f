"""Splits loops over threads. The loops release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache

# Weights that justify a thread, whose wake-up waits for the GIL: 50 us or more of work.
WORTH = 1 << 19
PARTS = 4  # parts of the work for each thread


@cache
def count() -> int:
    """Threads in use: MLX_DEQUANT_THREADS, or the processors this process may run on."""
    setting = os.environ.get("MLX_DEQUANT_THREADS", "")
    if setting:
        if not setting.isdigit() or int(setting) == 0:
            raise ValueError(f"MLX_DEQUANT_THREADS: found {setting!r}, expected a positive integer")
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(count() - 1, 1), thread_name_prefix="mlx-dequant")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def split(steps: int, weights: int, work: Callable[[int, int], object]) -> None:
    """Calls `work(begin, end)` over parts of 0 .. steps - 1, where a step is `weights` weights.

    A thread takes the next part when it has finished one, so threads may start late or run slower.
    """
    threads = min(count(), max(steps * weights // WORTH, 1))
    if threads == 1:
        work(0, steps)
        return
    parts = PARTS * threads
    todo = iter([(steps * part // parts, steps * (part + 1) // parts) for part in range(parts)])

    def share() -> None:
        for begin, end in todo:
            work(begin, end)

    futures: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # Python is ending, and daemon threads get no help
            for _ in range(threads - 1):
                futures.append(_pool().submit(share))
        share()
    finally:
        for future in futures:
            if not future.cancel():
                future.result()
