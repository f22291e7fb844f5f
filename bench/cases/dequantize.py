"""A layer, dequantized. Bytes: the quantized ones read and the results written."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...diagnostics.bounds import Allowance
from ...diagnostics.compare import F32, rounded, same_bits, within
from ..data import SIZES, Data, weights
from . import Case

PROVIDERS = ("ours", "torch_plain", "gguf_py", "mlx_own", "ggml", "gptqmodel", "bridge")
CHECK = "every bit"
FRESH = True


def data(case: Case) -> Data:
    return Data(weights(case))


def nbytes(case: Case, data: Data) -> int:
    return data.weights[0].nbytes + case.shape[0] * case.shape[1] * SIZES[case.dtype]


def result(case: Case) -> tuple[int, int]:
    return case.shape


def check(case: Case, data: Data, turn: int, found: F32, allowance: Allowance) -> str:
    """Every bit, or what the provider says it rounds, at three places of the layer."""
    for first, exact in data.exact(turn):
        expected = rounded(np.ascontiguousarray(exact), getattr(mx, case.dtype))
        part = found[first : first + len(expected)]
        bound = allowance.weight * np.abs(exact).max()
        difference = str(within(part, expected, bound) if bound else same_bits(part, expected))
        if difference:
            return f"outputs {first} to {first + len(expected) - 1}: {difference}"
    return ""
