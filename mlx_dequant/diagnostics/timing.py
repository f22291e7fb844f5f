"""Two timers: calls that take turns (`interleaved`), and what a call costs that does next to nothing (`overhead`)."""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

QUIET = 0.02  # seconds that torch's threads may spin after their work, and slow down what follows
LONGEST = 0.05  # seconds of a call for which an untimed one before it, to warm up, matters
LEAST = 3  # samples of each call that takes no longer than the budget


def done(results: list[Any]) -> None:
    """Nothing to wait for: the call did the work."""


@dataclass(frozen=True)
class Call:
    """Work to time.

    Attributes:
        begin: begins the work on the i-th inputs.
        wait: returns when all results are in memory.
        chain: calls that begin together, to hide what a launch costs; 1 on the CPU.
    """

    begin: Callable[[int], Any]
    wait: Callable[[list[Any]], object] = done
    chain: int = 1


@dataclass
class Samples:
    """Seconds of one call, a number for each round."""

    seconds: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, float]:
        """The shortest, the quartiles and the median."""
        middle, count = self.median, len(self.seconds)
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive") if count > 1 else [middle] * 3
        return {"min": min(self.seconds), "low": low, "median": middle, "high": high}


def interleaved(
    calls: Mapping[str, Call], rounds: int, budget: float = math.inf, warm: bool = True, seed: int = 0
) -> dict[str, Samples]:
    """Times each call once a round, in an order that changes, so that none has the machine's best moments.

    Args:
        calls: by name.
        rounds: at most.
        budget: seconds after which no new round begins, once there are `LEAST`; calls that take more than a
            tenth of it have `LEAST` turns, those that take all of it one.
        warm: make an untimed call before each short one.
    """
    taken = {name: Samples() for name in calls}
    order, shuffle = list(calls), random.Random(seed).shuffle
    end = time.perf_counter() + budget
    quiet = QUIET if warm and len(order) > 1 and all(call.chain == 1 for call in calls.values()) else 0.0
    for turn in range(rounds):
        if turn >= LEAST and time.perf_counter() > end:
            break
        shuffle(order)
        for name in order:
            call, samples = calls[name], taken[name].seconds
            last = samples[-1] * call.chain if samples else 0.0
            if (last > budget / 10 and len(samples) >= LEAST) or last > budget:
                continue
            time.sleep(quiet)
            if warm and last < LONGEST:
                once(call, turn, chain=1)
            samples.append(once(call, turn + 1, call.chain))
    return taken


def once(call: Call, turn: int, chain: int) -> float:
    """Seconds of one call of a chain."""
    begin = time.perf_counter()
    results = [call.begin(turn * chain + i) for i in range(chain)]
    call.wait(results)
    seconds = (time.perf_counter() - begin) / chain
    del results
    return seconds


def overhead(call: Callable[[], object], calls: int = 100, runs: int = 5) -> float:
    """Seconds of a call so small that nothing but calling it counts: the lowest median of several runs.

    A run takes less than a millisecond, and whatever else a machine does can make one slower, and none faster.
    """
    return min(_median_of_calls(call, calls) for _ in range(runs))


def _median_of_calls(call: Callable[[], object], calls: int) -> float:
    samples = Samples()
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        samples.seconds.append(time.perf_counter() - begin)
    del samples.seconds[: calls // 10]
    return samples.median


def in_child(code: str, environment: Mapping[str, str] | None = None) -> float:
    """Seconds that a Python process of its own prints: of an import, or a program's first call."""
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(finished.stderr.strip().splitlines()[-1])
    return float(finished.stdout)
