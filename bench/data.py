"""The inputs of a case, several of each: they rotate, so that caches do not flatter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from ..backends import GPUS
from ..diagnostics.compare import F32, exact
from ..diagnostics.sample_weights import layer
from .cases import Case

ROTATED = {"cpu": 128 << 20, "gpu": 256 << 20}  # bytes, more than caches hold
MOST = 64
XS = 8
OUTPUTS = 64  # of a layer that are checked, at each of three places
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, eq=False)
class Data:
    """What providers are given.

    Attributes:
        weights: equal in kind; the first two differ in value, the others are copies elsewhere.
        xs: [M, in] in the case's dtype.
        ids: int32 [M].
        tensor: a torch tensor that crosses, on torch's best device; None in other cases.
    """

    weights: list[mxd.QuantizedWeight] = field(default_factory=list[mxd.QuantizedWeight])
    xs: list[mx.array] = field(default_factory=list[mx.array])
    ids: list[Any] = field(default_factory=list[Any])
    tensor: Any = None
    slices: dict[int, list[tuple[int, F32]]] = field(default_factory=dict[int, list[tuple[int, F32]]])

    def exact(self, turn: int) -> list[tuple[int, F32]]:
        """First outputs, and their exact weights [64, in], at both ends of a layer and in the middle."""
        if turn not in self.slices:
            self.slices[turn] = list(_exact(self.weights[turn]))
        return self.slices[turn]


def _exact(weight: mxd.QuantizedWeight) -> Iterator[tuple[int, F32]]:
    outputs = weight.out_features
    for first in dict.fromkeys([0, outputs // 64 * 32, outputs - OUTPUTS]):
        yield first, exact(weight.rows(first, first + OUTPUTS))


def weights(case: Case) -> list[mxd.QuantizedWeight]:
    """Layers of random weights, as many as rotate."""
    g_idx = "shuffled" if case.has_g_idx else ""
    made = [layer(case.format, *case.shape, seed, g_idx=g_idx) for seed in range(2)]
    return made + [_copied(made[i % 2]) for i in range(turns(made[0].nbytes) - 2)]


def turns(nbytes: int) -> int:
    """How many of something this large rotate."""
    place = "gpu" if mxd.current_backend() in GPUS else "cpu"
    return min(max(-(-ROTATED[place] // max(nbytes, 1)), 2), MOST)


def _copied(weight: mxd.QuantizedWeight) -> mxd.QuantizedWeight:
    """The same weight in memory of its own."""
    return weight.replace(**{name: array + 0 for name, array in weight.arrays.items() if array is not None})


def xs(case: Case) -> list[mx.array]:
    """Rows of x."""
    rng, dtype = np.random.default_rng(0), getattr(mx, case.dtype)
    made = [mx.array(rng.standard_normal((case.M, case.shape[1]), np.float32)).astype(dtype) for _ in range(XS)]
    mx.eval(made)
    return made
