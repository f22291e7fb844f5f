"""Rows of an embedding, looked up. Bytes: the quantized rows read and the results written."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from ...diagnostics.bounds import Allowance
from ...diagnostics.compare import F32, exact, rounded, same_bits, within
from ..data import SIZES, XS, Data, weights
from . import Case

PROVIDERS = ("ours", "gguf_py", "mlx_own")
CHECK = "every bit"
FRESH = False


def data(case: Case) -> Data:
    rng = np.random.default_rng(0)
    return Data(weights(case), ids=[rng.integers(0, case.shape[0], case.M, np.int32) for _ in range(XS)])


def nbytes(case: Case, data: Data) -> int:
    return case.M * (data.weights[0].nbytes // case.shape[0] + case.shape[1] * SIZES[case.dtype])


def result(case: Case) -> tuple[int, int]:
    return case.M, case.shape[1]


def check(case: Case, data: Data, turn: int, found: F32, allowance: Allowance) -> str:
    """Every bit of every row, or what the provider says it rounds."""
    blocks = data.weights[turn].arrays["blocks"]
    assert blocks is not None
    true = exact(mxd.GGUFWeight(blocks[mx.array(data.ids[turn])], case.format))
    expected, bound = rounded(true, getattr(mx, case.dtype)), allowance.weight * np.abs(true).max()
    return str(within(found, expected, bound) if bound else same_bits(found, expected))
