"""MLX's dense product of the unpacked weight, in x's type: more bytes to read, and none to decode."""

from __future__ import annotations

import mlx.core as mx

import mlx_dequant as mxd

from ..cases import Case
from ..data import Data, turns
from ..timing import ON_GPU
from . import Contestant, Ready
from .ours import numpy, rounded_weights, wait


def unpacked(case: Case, data: Data) -> list[mx.array]:
    """Unpacked weights, [out, in], each in memory of its own."""
    count = min(turns(case.shape[0] * case.shape[1] * 2), len(data.weights))
    made = [w.dequantize(getattr(mx, case.dtype)) for w in data.weights[:count]]
    turned = [mx.contiguous(w.T) if data.weights[0].by_inputs else w for w in made]
    mx.eval(turned)
    return turned


class MLXDense:
    """`x @ w.T`."""

    name = "MLX dense"
    device = "cpu" if mxd.current_backend() not in ON_GPU else mxd.current_backend()

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.operation != "linear":
            return None
        weights, xs = unpacked(case, data), data.xs
        return Ready(lambda i: xs[i % len(xs)] @ weights[i % len(weights)].T, wait, numpy, rounded_weights(case))


def found() -> list[Contestant]:
    return [MLXDense()]
