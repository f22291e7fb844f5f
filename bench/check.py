"""Equality before time: a contestant with a wrong result is disqualified."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from .cases import Case
from .contestants import ROUNDING, Ready
from .data import Data, part

OUTPUTS = 64
SMALLEST = 2.0**-24  # of float16
TURNS = 2  # inputs that are looked at: the first two differ


class Checker:
    """What is right for a case, by the reference; outputs are looked at in three places."""

    def __init__(self, case: Case, data: Data):
        self.case = case
        self.data = data
        self.dense = {turn: list(self._slices(turn)) for turn in range(TURNS)} if data.weights else {}

    def _slices(self, turn: int) -> Iterator[tuple[int, np.ndarray]]:
        """First outputs, and their exact weights [64, in], at both ends and in the middle."""
        weight, outputs = self.data.weights[turn], self.case.shape[0]
        starts = dict.fromkeys([0, outputs // 64 * 32, outputs - OUTPUTS])
        with mxd.use_backend("reference"):
            for first in starts:
                exact = np.asarray(part(weight, first, OUTPUTS).dequantize(mx.float32))
                yield first, exact.T if weight.by_inputs else exact

    def wrong(self, ready: Ready) -> str:
        """What is wrong with a contestant's results; nothing, or a sentence."""
        for turn in range(TURNS):
            result = ready.call(turn)
            ready.wait([result])
            found = ready.numpy(result)
            expected = self._shape()
            if found.shape != expected:
                return f"shape {found.shape}, expected {expected}"
            said = self._compared(turn, found, ready)
            if said:
                return said
        return ""

    def _shape(self) -> tuple[int, int]:
        outputs, inputs = self.case.shape
        if self.case.operation == "linear":
            return self.case.vectors, outputs
        return (self.case.vectors, inputs) if self.case.operation == "take" else (outputs, inputs)

    def _compared(self, turn: int, found: np.ndarray, ready: Ready) -> str:
        if self.case.operation in ("to_mlx", "to_torch"):
            return unequal(found, self.data.tensor.float().cpu().numpy(), 0.0)
        if self.case.operation == "take":
            return self._rows(turn, found, ready)
        for first, exact in self.dense[turn]:
            if self.case.operation == "dequantize":
                bound = ready.error.weight * float(np.abs(exact).max())
                said = unequal(found[first : first + OUTPUTS], rounded(exact, self.case.dtype), bound)
            else:
                said = self._product(turn, found[:, first : first + OUTPUTS], exact, ready)
            if said:
                return f"outputs {first} to {first + OUTPUTS - 1}: {said}"
        return ""

    def _rows(self, turn: int, found: np.ndarray, ready: Ready) -> str:
        weight, ids = self.data.weights[turn], self.data.ids[turn]
        blocks = weight.inputs["blocks"]
        assert blocks is not None
        with mxd.use_backend("reference"):
            exact = np.asarray(mxd.GGUFWeight(blocks[mx.array(ids)], weight.format.name).dequantize(mx.float32))
        return unequal(found, rounded(exact, self.case.dtype), ready.error.weight * float(np.abs(exact).max()))

    def _product(self, turn: int, found: np.ndarray, dense: np.ndarray, ready: Ready) -> str:
        """Against float64: sums in float32, one rounding at the end, and what the contestant says it rounds."""
        x = np.asarray(self.data.xs[turn].astype(mx.float32)).astype(np.float64)
        w = dense.astype(np.float64)
        exact, weighed = x @ w.T, np.abs(x) @ np.abs(w).T
        rounding = ROUNDING[self.case.dtype]
        bound = x.shape[1] * 2.0**-24 * weighed + 1.01 * rounding * np.abs(exact) + SMALLEST
        bound += ready.error.weight * np.abs(w).max() * np.abs(x).sum(1, keepdims=True)
        bound += ready.error.x * np.abs(x).max() * np.abs(w).sum(1)
        excess = np.abs(found - exact) / bound
        worst = float(np.nan_to_num(excess, nan=np.inf).max())
        return "" if worst <= 1 else f"an error of {worst:.3g} times the bound"


def rounded(exact: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values rounded once to `dtype`, as float32."""
    return np.asarray(mx.array(exact).astype(getattr(mx, dtype)).astype(mx.float32))


def unequal(found: np.ndarray, expected: np.ndarray, bound: float) -> str:
    """How two arrays differ by more than `bound`, and in any bit without one."""
    if bound:
        wrong = ~(np.abs(found - expected) <= bound)
    else:
        wrong = np.ascontiguousarray(found).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{int(wrong.sum()):,} of {wrong.size:,} values differ, first {at}: {found[at]:g}, expected {expected[at]:g}"
