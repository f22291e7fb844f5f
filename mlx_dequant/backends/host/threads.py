"""How many threads the host backend may use."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from ...errors import FormatError

_limit: ContextVar[int | None] = ContextVar("mlx_dequant_threads", default=None)


@cache
def _setting() -> int | None:
    """MLX_DEQUANT_THREADS."""
    setting = os.environ.get("MLX_DEQUANT_THREADS", "")
    if not setting:
        return None
    if not setting.isdigit() or int(setting) == 0:
        raise FormatError(f"MLX_DEQUANT_THREADS: found {setting!r}, expected a positive integer")
    return int(setting)


@cache
def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count() -> int:
    """Threads that work may be shared between: MLX_DEQUANT_THREADS, or what `limited_to` says, or the processors
    this process may run on."""
    return _setting() or _limit.get() or _processors()


@contextmanager
def limited_to(number: int) -> Generator[None]:
    """Another number of threads inside the `with`, in this thread or task. MLX_DEQUANT_THREADS stands above it."""
    token = _limit.set(number)
    try:
        yield
    finally:
        _limit.reset(token)
