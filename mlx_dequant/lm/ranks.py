"""The processes that a command of ours runs in, as mlx.launch starts them: ranks 0 to size - 1 of a group."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..loading.mapped import bytes_read


def everybody() -> mx.distributed.Group:
    """All processes; this one alone if nothing started more."""
    hosts = os.environ.get("MLX_HOSTFILE")
    if hosts and Path(hosts).is_file() and not Path(hosts).read_text().strip():
        del os.environ["MLX_HOSTFILE"]  # of `mlx.launch -n 1`, which MLX would not read
    return mx.distributed.init()


@contextmanager
def together(group: mx.distributed.Group) -> Generator[None]:
    """While a group works on one thing: errors say whose they are, and a process that loses another one ends.

    Raises:
        ConnectionError: another process ended.
    """
    if group.size() == 1:
        yield
        return
    if threading.current_thread() is threading.main_thread():
        # mlx.launch ends the rest of a group so, also while MLX waits and Python handles no signal.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    me = f"rank {group.rank()} of {group.size()}"
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{me}: {error}") from error
    except RuntimeError as error:
        if not str(error).startswith(("[ring]", "[jaccl]", "[mpi]", "[nccl]")):
            raise
        raise ConnectionError(f"{me}: ends because another process did: {error}") from error


@contextmanager
def one_voice(group: mx.distributed.Group) -> Generator[None]:
    """While each process does the same: the first alone prints, and all draw the same random numbers."""
    if group.size() == 1:
        yield
        return
    own = int.from_bytes(os.urandom(3), "little") if group.rank() == 0 else 0
    seed: Any = mx.distributed.all_sum(mx.array(own), group=group, stream=mx.cpu).item()
    mx.random.seed(seed)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(sys.stdout if group.rank() == 0 else nowhere):
        yield


def launched() -> bool:
    """Whether MLX's launcher started this process."""
    return "MLX_RANK" in os.environ


def measured(group: mx.distributed.Group) -> list[dict[str, int]]:
    """For each process: bytes of tensors that it read from files, and bytes that MLX holds."""
    own = mx.array([bytes_read(), mx.get_active_memory()], mx.int64)
    every: Any = mx.distributed.all_gather(own, group=group, stream=mx.cpu).reshape(-1, 2).tolist()
    return [{"bytes_read": read, "memory": memory} for read, memory in every]


def end_with_generation(group: mx.distributed.Group) -> None:
    """Makes mlx-lm's server end when its thread that generates does: it would go on without answers."""
    from mlx_lm import server

    generator: Any = server.ResponseGenerator
    stock = generator._run_generate
    if group.size() == 1 or hasattr(stock, "ends"):
        return

    def run(self: Any) -> None:
        stock(self)
        if self._generation_failed:
            print(f"mlx-dequant: rank {group.rank()} of {group.size()}: ends: no answers", file=sys.stderr, flush=True)
            os._exit(1)

    run.ends = True  # type: ignore[attr-defined]
    generator._run_generate = run
