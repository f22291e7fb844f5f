"""Whether the host's products round x."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from ...errors import FormatError

PRECISIONS = ("float32", "int8")

_chosen: ContextVar[str | None] = ContextVar("mlx_dequant_precision", default=None)
chosen = _chosen.get  # what `set_to` says, None outside


def checked(name: str, source: str) -> str:
    """The name.

    Raises:
        FormatError: it is none of `PRECISIONS`; the message begins with `source`.
    """
    if name not in PRECISIONS:
        raise FormatError(f"{source}: found {name!r}, expected one of {', '.join(PRECISIONS)}")
    return name


@cache
def _setting() -> str:
    """MLX_DEQUANT_PRECISION."""
    return checked(os.environ.get("MLX_DEQUANT_PRECISION") or "float32", "MLX_DEQUANT_PRECISION")


def current() -> str:
    """One of `PRECISIONS`: what `set_to` says, else MLX_DEQUANT_PRECISION, else "float32"."""
    return _chosen.get() or _setting()


@contextmanager
def set_to(name: str | None) -> Generator[None]:
    """Another precision inside the `with`, in this thread or task; with None, MLX_DEQUANT_PRECISION's."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
