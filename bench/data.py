"""The inputs of a case, several of each: they rotate, so that caches do not flatter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from .cases import Case
from .timing import ON_GPU
from .weights import weight

ROTATED = {"cpu": 128 << 20, "gpu": 256 << 20}  # bytes, more than caches hold
MOST = 64
XS = 8


@dataclass(frozen=True)
class Data:
    """What contestants are given.

    Attributes:
        weights: equal in kind; the first two differ in value, the others are copies elsewhere.
        xs: [vectors, in] in the case's dtype.
        ids: int32 [vectors], as MLX and as NumPy have them.
        tensor: a torch tensor that crosses, on torch's best device; None in other cases.
    """

    weights: list[mxd.QuantizedWeight] = field(default_factory=list)
    xs: list[mx.array] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    tensor: Any = None


def of(case: Case) -> Data:
    """Random inputs of a case."""
    rng = np.random.default_rng(0)
    if case.operation in ("to_mlx", "to_torch"):
        return Data(tensor=_tensor(case))
    outputs, inputs = case.shape
    weights = [weight(case.format, outputs, inputs, seed) for seed in range(2)]
    weights += [copied(weights[i % 2]) for i in range(turns(weights[0].nbytes) - 2)]
    if case.operation == "linear":
        dtype = getattr(mx, case.dtype)
        xs = [mx.array(rng.standard_normal((case.vectors, inputs), np.float32)).astype(dtype) for _ in range(XS)]
        mx.eval(xs)
        return Data(weights, xs)
    if case.operation == "take":
        return Data(weights, ids=[rng.integers(0, outputs, case.vectors, np.int32) for _ in range(XS)])
    return Data(weights)


def turns(nbytes: int) -> int:
    """How many of something this large rotate."""
    place = "gpu" if mxd.current_backend() in ON_GPU else "cpu"
    return min(max(-(-ROTATED[place] // max(nbytes, 1)), 2), MOST)


def copied(w: mxd.QuantizedWeight) -> mxd.QuantizedWeight:
    """The same weight in memory of its own."""
    return w.replace(**{name: array + 0 for name, array in w.inputs.items() if array is not None})


def _tensor(case: Case) -> Any:
    import torch

    device = "mps" if torch.backends.mps.is_available() else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.randn(case.shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, case.dtype)).to(device)


def part(w: mxd.QuantizedWeight, first: int, count: int) -> mxd.QuantizedWeight:
    """Outputs `first` to `first + count` of a layer, multiples of 32, as a weight."""
    given = {name: array for name, array in w.inputs.items() if array is not None}
    end, bits = first + count, w.format.bits
    if w.format.family == "gguf":
        return mxd.GGUFWeight(given["blocks"][first:end], w.format.name)
    size = w.layout[0]
    words = slice(first * bits // 32, end * bits // 32)
    if w.format.family == "awq":
        codes, zeros = (given[name][:, words] for name in ("qweight", "qzeros"))
        return mxd.AWQWeight(codes, given["scales"][:, first:end], zeros, size)
    if w.format.family == "gptq":
        codes, scales = (given[name][:, first:end] for name in ("qweight", "scales"))
        return mxd.GPTQWeight(codes, scales, given["qzeros"][:, words], given.get("g_idx"), size, bits)
    codes, scales = (given[name][first:end] for name in ("codes", "scales"))
    zeros = given["zeros"][words] if "zeros" in given else None
    return mxd.CompressedTensorsWeight(codes, scales, (count, w.columns), zeros, given.get("g_idx"), bits, size)
