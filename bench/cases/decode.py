"""Tokens a second of whole models: ours, MLX's own and torch's, in rounds in which all take turns.

A row has "case" ("decode"), "model", "layers", "provider", "format", "has_g_idx" and "fused" (only where true),
"decode_tokens_per_second", "prompt_tokens_per_second" (by tokens of the prompt), "device", and of the products with one
row of x: "build_us", the microseconds in which MLX's graph is built (the mean of the products' shortest times), and the
most "launches" and "text_bytes" of custom kernels that one has. A mixture of experts has "experts": see
`experts.measure`. What was not measured is null. A row of a model with a process of its own has "blas", the libraries
there. A row that is not timed has "status" and "check" as well.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from ...backends import on_gpu
from ...diagnostics.graph import cost
from ...diagnostics.timing import Call, Samples, interleaved, overhead
from ..models import Kind, products
from ..run import summary
from ..runners import MLXModel, Runner
from . import experts

PROMPTS = (64, 512, 2048)
BASELINE = Kind("mlx", "mlx-4")  # takes its turns beside every model, also where memory holds few at once
Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A model to measure: how to make it, and the bytes that it takes, roughly."""

    make: Callable[[], Runner]
    nbytes: int


@dataclass
class Measured:
    """What is known of a model so far.

    Attributes:
        seconds: by phase, "decode" or the tokens of a prompt.
        costs: fields of the row.
        build: by product, the fewest seconds in which its graph was built.
        experts: fields of the row, of a mixture.
        problem: "status" and "check" of a model that is not timed.
    """

    seconds: dict[str, Samples] = field(default_factory=dict[str, Samples])
    costs: Row = field(default_factory=dict[str, Any])
    build: dict[int, float] = field(default_factory=dict[int, float])
    experts: Row = field(default_factory=dict[str, Any])
    problem: Row = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        facts: fields that all rows share: "model", "layers", "device".
        candidates: models by kind.
        prompts: tokens of the prompts.
        tokens: that are decoded in a round.
        rounds: at most, of each phase.
        seconds: of a phase's rounds, after which no new one begins.
        memory: bytes that models may take at a time.
    """

    facts: Row
    candidates: Mapping[Kind, Candidate]
    prompts: Sequence[int] = PROMPTS
    tokens: int = 64
    rounds: int = 7
    seconds: float = 30.0
    memory: int = 1 << 62


def measure(plan: Plan, say: Callable[[str], None], write: Callable[[list[Row]], None]) -> list[Row]:
    """The rows of a plan, in its order.

    Args:
        say: told what begins, and what came of it.
        write: given all rows after each phase.
    """
    found = {kind: Measured() for kind in plan.candidates}
    runners: dict[Kind, Runner] = {}
    for batch in batches(plan, found):
        if dropped := [kind for kind in runners if kind not in batch]:
            for kind in dropped:
                del runners[kind]
            gc.unfreeze()
            gc.collect()
            mx.clear_cache()
        for kind in batch:
            if kind not in runners and not found[kind].problem:
                say(f"{kind.title}: making it")
                _prepare(kind, plan.candidates[kind], runners, found[kind])
        write(rows(plan, found))
        gc.freeze()  # Python would look through every model's objects while one is timed
        for phase in ("decode", *map(str, plan.prompts)):
            say(f"{phase if phase == 'decode' else f'a prompt of {phase}'}: {len(runners)} models in turn")
            for kind, runner in runners.items():
                _time_products(kind, runner, found[kind].build)
            for kind, samples in _timed(plan, phase, runners).items():
                found[kind].seconds.setdefault(phase, Samples()).seconds += samples.seconds
                say(f"  {kind.title}: {_speed(plan, phase, found[kind]):.1f} tokens a second")
            write(rows(plan, found))
        if times := experts.measure(runners, plan.prompts, plan.rounds, plan.seconds, say):
            for kind, of_experts in times.items():
                found[kind].experts = of_experts
            write(rows(plan, found))
    gc.unfreeze()
    return rows(plan, found)


def batches(plan: Plan, found: Mapping[Kind, Measured]) -> Iterator[list[Kind]]:
    """Kinds of which memory holds all at once, `BASELINE` in each if there is room; what has none is left out."""
    sizes = {kind: candidate.nbytes for kind, candidate in plan.candidates.items()}
    for kind in [kind for kind, size in sizes.items() if size > plan.memory]:
        said = f"takes {sizes.pop(kind) / 1e9:.1f} GB, and there is room for {plan.memory / 1e9:.1f}"
        found[kind].problem = {"status": "left out", "check": said}
    base = [kind for kind in sizes if kind == BASELINE]
    others = [kind for kind in sizes if kind != BASELINE]
    batch = base
    for kind in others:
        if sum(map(sizes.__getitem__, [*batch, kind])) > plan.memory:
            if batch != base:
                yield batch
            batch = base if sum(map(sizes.__getitem__, [*base, kind])) <= plan.memory else []
        batch = [*batch, kind]
    if batch:
        yield batch


def _prepare(kind: Kind, candidate: Candidate, runners: dict[Kind, Runner], measured: Measured) -> None:
    """Makes a model, finds out that its answers are numbers, and what its products cost."""
    try:
        runner = candidate.make()
        if not runner.is_finite():
            measured.problem = {"status": "wrong", "check": "found scores that are not finite"}
            return
        measured.costs = costs(kind, runner)
        if library := getattr(runner, "blas", ""):
            measured.costs = {**measured.costs, "blas": library}
        runners[kind] = runner
    except Exception as error:  # a provider's failure is its own
        measured.problem = {"status": "failed", "check": summary(error)}


def costs(kind: Kind, runner: Runner) -> Row:
    """The most kernels and bytes of text that a product with one row of x has."""
    graphs = [cost(call) for call in _products(kind, runner)]
    if not graphs:
        return {}
    return {
        "launches": max(graph.launches for graph in graphs),
        "text_bytes": max(graph.text_bytes for graph in graphs),
    }


def _time_products(kind: Kind, runner: Runner, build: dict[int, float]) -> None:
    """Keeps the shortest time in which each product was built so far. It is called between phases, because a CPU can
    be slow for seconds."""
    for i, call in enumerate(_products(kind, runner)):
        build[i] = min(build.get(i, math.inf), overhead(call))


def _products(kind: Kind, runner: Runner) -> Iterator[Callable[[], mx.array]]:
    """Builds of each product with one row of x, where they are graphs: not torch's, nor ours on a CPU."""
    if isinstance(runner, MLXModel) and (kind.provider == "mlx" or on_gpu()):
        for layer, inputs in products(runner.model):
            x = mx.ones((1, 1, inputs), runner.dtype)
            mx.eval(x, layer(x))
            yield partial(layer, x)


def _timed(plan: Plan, phase: str, runners: Mapping[Kind, Runner]) -> dict[Kind, Samples]:
    """Seconds of a phase, of models that take turns."""
    make = {kind.title: _decoding(runner, plan.tokens) for kind, runner in runners.items() if phase == "decode"}
    make |= {kind.title: _reading(runner, int(phase)) for kind, runner in runners.items() if phase != "decode"}
    taken = interleaved(make, plan.rounds, plan.seconds)
    return {kind: taken[kind.title] for kind in runners}


def _decoding(runner: Runner, count: int) -> Call:
    answer = runner.tokens(count)
    next(answer)
    return Call(lambda turn: next(answer), lambda results: runner.wait())


def _reading(runner: Runner, count: int) -> Call:
    return Call(lambda turn: runner.prompt(count))


def _speed(plan: Plan, phase: str, measured: Measured) -> float | None:
    """Tokens a second."""
    samples = measured.seconds.get(phase)
    return (plan.tokens if phase == "decode" else int(phase)) / samples.median if samples else None


def rows(plan: Plan, found: Mapping[Kind, Measured]) -> list[Row]:
    """A row for each model, with what is known of it."""
    return [
        {
            "case": "decode",
            **{name: plan.facts[name] for name in ("model", "layers")},
            "provider": kind.provider,
            "format": kind.format,
            **{name: True for name in ("has_g_idx", "fused") if getattr(kind, name)},
            "decode_tokens_per_second": _speed(plan, "decode", measured),
            "prompt_tokens_per_second": {str(count): _speed(plan, str(count), measured) for count in plan.prompts},
            "build_us": round(1e6 * statistics.mean(measured.build.values()), 2) if measured.build else None,
            **{name: measured.costs.get(name) for name in ("launches", "text_bytes")},
            **({"experts": measured.experts} if measured.experts else {}),
            "device": plan.facts["device"],
            **({"blas": measured.costs["blas"]} if "blas" in measured.costs else {}),
            **measured.problem,
        }
        for kind, measured in found.items()
    ]
