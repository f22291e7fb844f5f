"""Rounds: each contestant once, in an order that changes, so that none has the machine's best moments."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from .contestants import Ready

QUIET = 0.02  # seconds that torch's threads may spin after their work, and slow down what follows
LONGEST = 0.05  # seconds of a call for which an untimed one before it, to warm up, matters
SAMPLES = 3  # at least, of each contestant that takes no longer than the budget
CHAIN = 40
HELD = 2 << 30  # bytes of results that a chain may hold


@dataclass
class Taken:
    """Seconds of single calls, one for each round; each of a chain of `chain` calls begun together."""

    chain: int = 1
    seconds: list[float] = field(default_factory=list)


def chain_of(device: str, nbytes: int) -> int:
    """Calls in a chain: one on the CPU, where no launch has to be hidden."""
    return 1 if device == "cpu" else max(1, min(CHAIN, HELD // max(nbytes, 1)))


def interleaved(
    contestants: dict[str, Ready], chains: dict[str, int], budget: float, rounds: int, seed: int = 0
) -> dict[str, Taken]:
    """Times each contestant in turn.

    Args:
        contestants: by name; each has been called before.
        chains: calls of a chain, by name.
        budget: seconds after which no new round begins, once there are `SAMPLES`.
        rounds: at most.
    """
    taken = {name: Taken(chains[name]) for name in contestants}
    order = list(contestants)
    shuffle = random.Random(seed).shuffle
    end = time.perf_counter() + budget
    quiet = QUIET if all(chain == 1 for chain in chains.values()) and len(order) > 1 else 0.0
    for turn in range(rounds):
        if turn >= SAMPLES and time.perf_counter() > end:
            break
        shuffle(order)
        for name in order:
            samples = taken[name].seconds
            last = samples[-1] * chains[name] if samples else 0.0
            if (last > budget / 10 and len(samples) >= SAMPLES) or last > budget:
                continue
            time.sleep(quiet)
            if last < LONGEST:
                once(contestants[name], 1, turn)
            samples.append(once(contestants[name], chains[name], turn + 1))
    return taken


def once(ready: Ready, chain: int, turn: int) -> float:
    """Seconds of one call of a chain."""
    begin = time.perf_counter()
    results = [ready.call(turn * chain + i) for i in range(chain)]
    ready.wait(results)
    seconds = (time.perf_counter() - begin) / chain
    del results
    return seconds
