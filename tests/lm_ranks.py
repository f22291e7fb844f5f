"""Models in parts: as threads of this process that stand in for ranks, and as real processes of mlx.launch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx


class Rank:
    """A member of a group whose members are threads."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier | None = None):
        self._rank, self.slots, self.barrier = rank, slots, barrier

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return len(self.slots)

    def all_sum(self, x: mx.array) -> mx.array:
        assert self.barrier is not None
        mx.eval(x)
        self.slots[self._rank] = x
        self.barrier.wait(120)
        total = self.slots[0]
        for other in self.slots[1:]:
            total = total + other
        mx.eval(total)
        self.barrier.wait(120)
        return total


def over_threads(size: int, work: Callable[[Any], Any], monkeypatch: Any) -> list[Any]:
    """What `work` gives for each rank. `mx.distributed.all_sum` sums over the threads meanwhile."""
    monkeypatch.setattr(mx.distributed, "all_sum", lambda x, group=None, stream=None: group.all_sum(x))
    slots, barrier = [None] * size, threading.Barrier(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Rank(rank, slots, barrier))
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [error for error in results if isinstance(error, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return results


def launch(size: int, *command: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python command over processes of this machine, by MLX's own launcher on its ring."""
    launcher = Path(sys.executable).with_name("mlx.launch")
    arguments = [str(launcher), "-n", str(size), "--backend", "ring", "--", sys.executable, *command]
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=os.environ | variables, stdin=subprocess.DEVNULL
    )
