"""Measures cases: checks every provider, times those that are right in turn, and makes a row for each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd

from ..backends import GPUS
from ..diagnostics.timing import Call, Samples, interleaved
from .cases import Case
from .data import SIZES, Data
from .providers import LeftOut, Provider, Ready, copying, takes_part

Row = dict[str, Any]
CHAIN = 40
HELD = 2 << 30  # bytes of results that a chain may hold
TURNS = 2  # inputs that are checked: the first two differ


def measure(
    case: Case,
    providers: Sequence[Provider],
    budget: float,
    rounds: int,
    step: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Rows of a case: the fastest first, those without a time last.

    Args:
        providers: all that are here; the case says which files take part.
        budget: seconds for the rounds, roughly.
        rounds: at most.
        step: told the provider that is checked next.
    """
    operation = case.operation
    data = operation.data(case)
    ready: dict[str, Ready] = {}
    devices: dict[str, str] = {}
    untimed: list[Row] = []
    for provider in providers:
        if not takes_part(provider, operation.PROVIDERS):
            continue
        step(provider.name)
        status, found, check = checked(case, data, provider)
        if status:
            untimed.append(_row(case, provider.name, provider.device, status, check))
        elif found is not None:
            ready[provider.name], devices[provider.name] = found, provider.device
    step("rounds")
    nbytes, samples, chains = operation.nbytes(case, data), dict[str, Samples](), dict[str, int]()
    ready[copying.NAME] = copying.ready(nbytes, operation.FRESH)
    devices[copying.NAME] = "gpu" if mxd.current_backend() in GPUS else "cpu"
    result = operation.result(case)
    for on_cpu in (False, True):
        calls: dict[str, Call] = {}
        for name, one in ready.items():
            if (devices[name] == "cpu") == on_cpu:
                chains[name] = chain_of(devices[name], result[0] * result[1] * SIZES[case.dtype])
                calls[name] = Call(one.call, one.wait, chains[name])
        # Memory that the CPU wrote stays with it: a GPU that MLX hands it again waits for its pages.
        mx.clear_cache()
        samples |= interleaved(calls, rounds, budget * len(calls) / len(ready))
    copy = samples[copying.NAME].median
    rows: list[Row] = []
    for name, taken in samples.items():
        check = ready[name].allowance.why or operation.CHECK
        rows.append(
            _row(case, name, devices[name], "timed", "" if name == copying.NAME else check)
            | {
                "seconds": taken.summary(),
                "rounds": len(taken.seconds),
                "chain": chains[name],
                "bytes": nbytes,
                "gbps": nbytes / taken.median / 1e9,
                "share_of_copy": copy / taken.median,
            }
        )
    rows.sort(key=lambda row: row["seconds"]["median"])
    # What a case holds is large, and the next one's is not yet made.
    del ready, data, calls  # pyright: ignore[reportPossiblyUnbound]
    gc.collect()
    mx.clear_cache()
    return rows + untimed


def checked(case: Case, data: Data, provider: Provider) -> tuple[str, Ready | None, str]:
    """A provider, ready to be timed; or the status of its row and why it has no time."""
    try:
        ready = provider.prepare(case, data)
        for turn in range(TURNS if ready is not None else 0):
            assert ready is not None
            result = ready.call(turn)
            ready.wait([result])
            found = ready.numpy(result)
            if found.shape != case.operation.result(case):
                return "wrong", None, f"found shape {found.shape}, expected {case.operation.result(case)}"
            problem = case.operation.check(case, data, turn, found, ready.allowance)
            if problem:
                return "wrong", None, problem
    except LeftOut as reason:
        return "left out", None, str(reason)
    except Exception as error:  # a provider's failure is its own
        return "failed", None, summary(error)
    return "", ready, ""


def chain_of(device: str, nbytes: int) -> int:
    """Calls in a chain: one on the CPU, where no launch has to be hidden."""
    return 1 if device == "cpu" else max(1, min(CHAIN, HELD // max(nbytes, 1)))


def _row(case: Case, provider: str, device: str, status: str, check: str) -> Row:
    """A row without times."""
    fields = {**vars(case), "shape": list(case.shape), "provider": provider, "runs_on": device}
    numbers = dict.fromkeys(("seconds", "rounds", "chain", "bytes", "gbps", "share_of_copy"))
    return {**fields, "status": status, "check": check, **numbers}


def summary(error: BaseException) -> str:
    """An error on one line: its first line, and where a compiler is at fault, what that said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    cause = next((line for line in lines[1:] if "error:" in line), "")
    return f"{type(error).__name__}: {' '.join([lines[0], cause])}"[:240].strip()


def run(
    cases: Sequence[Case],
    providers: Sequence[Provider],
    budget: float,
    rounds: int,
    deadline: float | None = None,
    fits: Callable[[Case, Provider], bool] = lambda case, provider: True,
    show: Callable[[Case, list[Row]], None] = lambda case, rows: None,
    step: Callable[[Case, str], None] = lambda case, name: None,
) -> tuple[list[Row], list[Case]]:
    """Every case in turn: its rows; and the cases that `deadline`, of `time.monotonic`, left out."""
    rows: list[Row] = []
    for at, case in enumerate(cases):
        if deadline is not None and time.monotonic() > deadline:
            return rows, list(cases[at:])
        here = [provider for provider in providers if fits(case, provider)]
        found = measure(case, here, budget, rounds, lambda name, case=case: step(case, name))
        rows += found
        show(case, found)
    return rows, []
