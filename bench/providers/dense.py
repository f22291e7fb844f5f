"""MLX's dense matmul, in x's type: of the dequantized weight, and of one that is dequantized for each call."""

from __future__ import annotations

import mlx.core as mx

import mlx_dequant as mxd

from ...backends import GPUS
from ...diagnostics.bounds import rounded_weights
from ...diagnostics.compare import as_float32, is_in_out
from ..cases import Case
from ..data import Data, turns
from . import Provider, Ready
from .ours import wait


def dequantized(case: Case, data: Data) -> list[mx.array]:
    """Dequantized weights, [out, in], each in memory of its own."""
    count = min(turns(case.shape[0] * case.shape[1] * 2), len(data.weights))
    made = [w.dequantize(getattr(mx, case.dtype)) for w in data.weights[:count]]
    turned = [mx.contiguous(w.T) if is_in_out(data.weights[0]) else w for w in made]
    mx.eval(turned)
    return turned


class MLXDense:
    """`x @ w.T`."""

    name = "MLX dense"
    device = "cpu" if mxd.current_backend() not in GPUS else mxd.current_backend()

    def prepare(self, case: Case, data: Data) -> Ready | None:
        weights, xs, dtype = dequantized(case, data), data.xs, getattr(mx, case.dtype)
        return Ready(lambda i: xs[i % len(xs)] @ weights[i % len(weights)].T, wait, as_float32, rounded_weights(dtype))


class DequantizedFirst:
    """`x @ weight.dequantize().T`: what a layer without a fused kernel does."""

    name = "dequantize, then MLX dense"
    device = MLXDense.device

    def prepare(self, case: Case, data: Data) -> Ready | None:
        weights, xs, dtype = data.weights, data.xs, getattr(mx, case.dtype)

        def call(i: int) -> mx.array:
            dense = weights[i % len(weights)].dequantize(dtype)
            return xs[i % len(xs)] @ (dense if is_in_out(weights[0]) else dense.T)

        return Ready(call, wait, as_float32, rounded_weights(dtype))


def found() -> list[Provider]:
    return [MLXDense(), DequantizedFirst()]
