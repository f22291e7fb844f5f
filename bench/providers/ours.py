"""mlx-dequant, each of its backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd

from ...backends import GPUS
from ...diagnostics.bounds import EXACT, rounded_weights, rounds_weights
from ...diagnostics.compare import as_float32, is_in_out
from ..cases import Case
from ..data import Data
from . import LeftOut, Provider, Ready

PATIENCE = 1 << 24  # weights


@dataclass(frozen=True)
class Ours:
    """One backend."""

    backend: str

    @property
    def name(self) -> str:
        return f"mlx-dequant {self.backend}"

    @property
    def device(self) -> str:
        return self.backend if self.backend in GPUS else "cpu"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if self.backend == "reference":
            if case.case != "dequantize":
                return None
            if data.weights[0].size > PATIENCE:
                raise LeftOut("takes seconds for a weight this large")
        work, dtype = operation(case, data), getattr(mx, case.dtype)

        def call(i: int) -> mx.array:
            with mxd.use_backend(self.backend, "float32"):
                return work(i)

        rounds = case.case == "linear" and rounds_weights(self.backend, case.M)
        turned = case.case == "dequantize" and is_in_out(data.weights[0])
        allowance = rounded_weights(dtype) if rounds else EXACT
        return Ready(call, wait, lambda result: as_float32(result.T if turned else result), allowance)


def operation(case: Case, data: Data) -> Callable[[int], mx.array]:
    """The call on the i-th inputs."""
    weights, xs, dtype = data.weights, data.xs, getattr(mx, case.dtype)
    if case.case == "dequantize":
        return lambda i: weights[i % len(weights)].dequantize(dtype)
    if case.case == "linear":
        return lambda i: weights[i % len(weights)].linear(xs[i % len(xs)])
    ids = [mx.array(each) for each in data.ids]
    return lambda i: weights[i % len(weights)].take(ids[i % len(ids)], dtype)


def wait(results: list[Any]) -> None:
    """Evaluates MLX's arrays."""
    mx.eval(results)
    mx.synchronize()


def found() -> list[Provider]:
    return [Ours(name) for name in mxd.available_backends()]
