"""Models in parts: as threads of this process that stand in for ranks, and as real processes of mlx.launch."""

from __future__ import annotations

import json
import os
import socket
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


def launcher(size: int, *command: str) -> list[str]:
    """A Python command over processes of this machine, by MLX's own launcher on its ring."""
    path = Path(sys.executable).with_name("mlx.launch")
    options = ["-n", str(size), "--backend", "ring", "--starting-port", str(free_ports(size))]
    return [str(path), *options, "--", sys.executable, *command]


def launch(size: int, *command: str) -> subprocess.CompletedProcess[str]:
    """The same, until it ends."""
    # The launcher turns in circles once its input has ended.
    reads, writes = os.pipe()
    try:
        return subprocess.run(launcher(size, *command), capture_output=True, text=True, timeout=1200, stdin=reads)
    finally:
        os.close(reads)
        os.close(writes)


def by_hand(size: int, folder: Path, *command: str) -> list[subprocess.Popen[str]]:
    """The same processes without a launcher, which would end the others when one ends."""
    first = free_ports(size)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{first + rank}"] for rank in range(size)]))
    return [
        subprocess.Popen(
            [sys.executable, *command],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)},
        )
        for rank in range(size)
    ]


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(20000 + os.getpid() % 10000, 60000, 16):
        try:
            for port in range(first, first + count):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("found no free ports")
