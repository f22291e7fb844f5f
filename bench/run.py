"""Measures cases: equality, then rounds, then a row for each contestant."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlx.core as mx

from . import data as inputs
from .cases import Case
from .check import Checker
from .contestants import Contestant, LeftOut, Ready, copying
from .data import Data
from .rounds import Taken, chain_of, interleaved
from .timing import environment

Row = dict[str, Any]
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def about() -> dict[str, Any]:
    """The machine and the versions, which every row says."""
    found: dict[str, Any] = dict(environment())
    for package in ("numpy", "gguf", "torch", "llama-cpp-python", "gptqmodel"):
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            found[package.replace("-", "_")] = ""
    return found


def counted(case: Case, data: Data) -> tuple[int, int]:
    """Bytes that a case has to move, packed ones read and results written, and weights or elements."""
    outputs, columns = case.shape
    size = SIZES[case.dtype]
    if not data.weights:
        return 2 * outputs * columns * size, outputs * columns
    packed = data.weights[0].nbytes
    if case.operation == "take":
        return case.vectors * (packed // outputs + columns * size), case.vectors * columns
    if case.operation == "linear":
        return packed + case.vectors * (outputs + columns) * size, outputs * columns
    return packed + outputs * columns * size, outputs * columns


def results(case: Case) -> int:
    """Elements of a result."""
    outputs, columns = case.shape
    return {"linear": case.vectors * outputs, "take": case.vectors * columns}.get(case.operation, outputs * columns)


def measure(
    case: Case,
    contestants: Sequence[Contestant],
    place: dict[str, Any],
    budget: float,
    rounds: int,
    step: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Rows of a case, the fastest first, wrong contestants last.

    Args:
        place: what `about()` says.
        budget: seconds for the rounds, roughly.
        rounds: at most.
        step: told the contestant that is checked next.
    """
    data = inputs.of(case)
    checker = Checker(case, data)
    fit: dict[str, Ready] = {}
    out: list[Row] = []
    for contestant in contestants:
        step(contestant.name)
        try:
            ready = contestant.prepare(case, data)
            said = "" if ready is None else checker.wrong(ready)
        except LeftOut as reason:
            out.append(untimed(case, contestant, "left out", str(reason)) | place)
            continue
        except Exception as error:  # a contestant's failure is its own
            out.append(untimed(case, contestant, "failed", summary(error)) | place)
            continue
        if said:
            out.append(untimed(case, contestant, "disqualified", said) | place)
        elif ready is not None:
            fit[contestant.name] = ready
    moved, weights = counted(case, data)
    devices = {contestant.name: contestant.device for contestant in contestants}
    result = results(case) * SIZES[case.dtype]
    chains = {name: chain_of(devices[name], result) for name in fit}
    fit[copying.NAME] = copying.ready(moved, case.operation in ("dequantize", "to_mlx", "to_torch"))
    copies_on = "cpu" if place["backend"] in ("host", "reference") else "gpu"
    chains[copying.NAME] = chain_of(copies_on, result)
    step("rounds")
    taken: dict[str, Taken] = {}
    for on_cpu in (False, True):
        group = {name: ready for name, ready in fit.items() if (devices.get(name, copies_on) == "cpu") == on_cpu}
        # Memory that the CPU wrote stays with it: a GPU that MLX hands it again waits for its pages.
        mx.clear_cache()
        taken |= interleaved(group, {name: chains[name] for name in group}, budget * len(group) / len(fit), rounds)
    copy = statistics.median(taken[copying.NAME].seconds)
    rows = [
        timed(case, name, devices.get(name, ""), taken[name], moved, weights, copy, fit[name].error.why) | place
        for name in fit
    ]
    rows.sort(key=lambda row: row["seconds"])
    # What a case holds is large, and the next one's is not yet made.
    del fit, data, checker
    gc.collect()
    mx.clear_cache()
    return rows + out


def base(case: Case, name: str, device: str) -> Row:
    return {
        "operation": case.operation,
        "format": case.format,
        "layer": case.layer,
        "shape": list(case.shape),
        "vectors": case.vectors,
        "dtype": case.dtype,
        "contestant": name,
        "runs_on": device,
    }


def timed(
    case: Case, name: str, device: str, taken: Taken, moved: int, weights: int, copy: float, rounds_what: str
) -> Row:
    """One row: medians, and quartiles as the spread."""
    middle = statistics.median(taken.seconds)
    quarters = statistics.quantiles(taken.seconds, n=4, method="inclusive") if len(taken.seconds) > 1 else [middle] * 3
    return base(case, name, device) | {
        "status": "timed",
        "note": rounds_what,
        "seconds": middle,
        "low": quarters[0],
        "high": quarters[2],
        "rounds": len(taken.seconds),
        "chain": taken.chain,
        "bytes": moved,
        "gbps": moved / middle / 1e9,
        "copy_gbps": moved / copy / 1e9,
        "copy_share": copy / middle,
        "gweights": weights / middle / 1e9,
    }


def untimed(case: Case, contestant: Contestant, status: str, said: str) -> Row:
    """A row without times: "disqualified", "failed" or "left out"."""
    numbers = ("seconds", "low", "high", "gbps", "copy_gbps", "copy_share", "gweights")
    return base(case, contestant.name, contestant.device) | {
        "status": status,
        "note": said,
        "rounds": 0,
        "chain": 0,
        "bytes": 0,
        **dict.fromkeys(numbers),
    }


def summary(error: BaseException) -> str:
    """An error on one line: its first line, and where a compiler is at fault, what that said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = next((line for line in lines[1:] if "error:" in line), "")
    return f"{type(error).__name__}: {' '.join([lines[0], said])}"[:240].strip()


def run(
    cases: Sequence[Case],
    contestants: Sequence[Contestant],
    budget: float,
    rounds: int,
    deadline: float | None = None,
    fits: Callable[[Case, Contestant], bool] = lambda case, contestant: True,
    show: Callable[[Case, list[Row]], None] = lambda case, rows: None,
    step: Callable[[Case, str], None] = lambda case, name: None,
) -> tuple[list[Row], list[Case]]:
    """Every case in turn: its rows; and the cases that `deadline`, of `time.monotonic`, left out."""
    place = about()
    rows: list[Row] = []
    for at, case in enumerate(cases):
        if deadline is not None and time.monotonic() > deadline:
            return rows, list(cases[at:])
        here = [contestant for contestant in contestants if fits(case, contestant)]
        found = measure(case, here, place, budget, rounds, lambda name, case=case: step(case, name))
        rows += found
        show(case, found)
    return rows, []
