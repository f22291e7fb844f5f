"""mlx-dequant, each of its backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from ..cases import Case
from ..data import Data
from ..timing import ON_GPU
from . import EXACT, ROUNDING, Contestant, Error, LeftOut, Ready

PATIENCE = 1 << 24  # weights
MANY = 16  # with more vectors a GPU rounds weights to x's type


@dataclass(frozen=True)
class Ours:
    """One backend."""

    backend: str

    @property
    def name(self) -> str:
        return f"mlx-dequant {self.backend}"

    @property
    def device(self) -> str:
        return self.backend if self.backend in ON_GPU else "cpu"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        work = operation(case, data)
        if work is None or (self.backend == "reference" and case.operation != "dequantize"):
            return None
        if self.backend == "reference" and data.weights[0].size > PATIENCE:
            raise LeftOut("takes seconds for a weight this large")

        def call(i: int) -> mx.array:
            with mxd.use_backend(self.backend):
                return work(i)

        error = EXACT
        if case.operation == "linear" and self.backend in ON_GPU and case.vectors > MANY:
            error = rounded_weights(case)
        turned = case.operation == "dequantize" and data.weights[0].by_inputs
        return Ready(call, wait, lambda result: numpy(result.T if turned else result), error)


def rounded_weights(case: Case) -> Error:
    """A dense product of weights in x's type; in float32, MLX may round both to TF32."""
    if case.dtype == "float32":
        return Error(2.0**-11, 2.0**-11, "may use TF32")
    return Error(weight=ROUNDING[case.dtype], why=f"weights rounded to {case.dtype}")


def operation(case: Case, data: Data) -> Callable[[int], mx.array] | None:
    """The call on the i-th inputs."""
    weights, dtype = data.weights, getattr(mx, case.dtype)
    if case.operation == "dequantize":
        return lambda i: weights[i % len(weights)].dequantize(dtype)
    if case.operation == "linear":
        return lambda i: weights[i % len(weights)].linear(data.xs[i % len(data.xs)])
    if case.operation == "take":
        ids = [mx.array(given) for given in data.ids]
        return lambda i: weights[i % len(weights)].take(ids[i % len(ids)], dtype)
    return None


def wait(results: list[Any]) -> None:
    """Evaluates MLX's arrays."""
    mx.eval(results)
    mx.synchronize()


def numpy(result: mx.array) -> np.ndarray:
    """Values as float32."""
    return np.asarray(result.astype(mx.float32))


def found() -> list[Contestant]:
    return [Ours(name) for name in mxd.available_backends()]
