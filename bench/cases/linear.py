"""M rows of x times a layer. Bytes: the quantized ones and x read, and the results written."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...diagnostics.bounds import Allowance, matmul_bound
from ...diagnostics.compare import F32, as_float32, within
from ..data import SIZES, Data, weights, xs
from . import Case

PROVIDERS = (
    "ours", "torch_plain", "mlx_own", "dense", "torch_dense", "torch_int4", "ggml", "gptqmodel", "bridge",
)  # fmt: skip
CHECK = "within the bound of float32 sums"
FRESH = False


def data(case: Case) -> Data:
    return Data(weights(case), xs(case))


def nbytes(case: Case, data: Data) -> int:
    return data.weights[0].nbytes + case.M * sum(case.shape) * SIZES[case.dtype]


def result(case: Case) -> tuple[int, int]:
    return case.M, case.shape[0]


def check(case: Case, data: Data, turn: int, found: F32, allowance: Allowance) -> str:
    """Within the bound of float32 sums, one rounding, and what the provider says it rounds."""
    x = as_float32(data.xs[turn]).astype(np.float64)
    for first, exact in data.exact(turn):
        bound = matmul_bound(x, exact.T.astype(np.float64), getattr(mx, case.dtype), allowance=allowance)
        difference = str(within(found[:, first : first + len(exact)], *bound))
        if difference:
            return f"outputs {first} to {first + len(exact) - 1}: {difference}"
    return ""
