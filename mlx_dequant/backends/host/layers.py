"""What models compute between products (cpp/layers.h), for which MLX's CPU has a dozen nodes: one node each.

Each function takes what MLX's takes. It returns None where MLX has to compute: other types than float32, arrays that a
transformation traces, arguments that it does not know, or no primitive (lazy.py).
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np

from . import lazy, threads

RMS_NORM, ROPE, ATTENTION, SWIGLU = range(4)  # Function in cpp/layers.h
PLAIN, CAUSAL, BOOLEANS, NUMBERS, PAIRS = range(5)  # Kind in cpp/layers.h; a mask's kind is its type


def _node(
    function: int, *inputs: mx.array | None, kind: int = PLAIN, number: float = 0, dims: int = 0
) -> mx.array | None:
    primitive = lazy.primitive()
    places: list[int | None] = [None] * 4
    for i, array in enumerate(inputs):
        if array is not None:
            if type(array) is not mx.array:
                return None
            places[i] = id(array)
    if primitive is None:
        return None
    out = mx.array(0)
    error = primitive.put_layer(function, kind, number, dims, *places, threads.count(), lazy.HEAD, id(out))
    if error:
        raise RuntimeError(f"mlx-dequant: {error.decode(errors='replace')}")
    return out if error is None else None


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array | None:
    """`mx.fast.rms_norm`."""
    return None if weight is None else _node(RMS_NORM, x, weight, number=eps)


def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
) -> mx.array | None:
    """`mx.fast.rope`."""
    by_base = isinstance(base, (int, float)) and base > 0 and dims > 1 and freqs is None
    if not by_base and (base is not None or freqs is None):
        return None
    turns = _turns(dims, base) if freqs is None else mx.reciprocal(freqs)
    offset = mx.array(offset) if isinstance(offset, int) else offset
    return _node(ROPE, x, turns, offset, kind=PAIRS if traditional else PLAIN, number=scale, dims=dims)


@lru_cache
def _turns(dims: int, base: float) -> mx.array:
    """Angles [dims / 2] from one position to the next, as MLX computes them in float32."""
    half = dims // 2
    step = np.float32(math.log(np.float32(base))) / np.float32(half)
    turns = mx.exp(mx.arange(0, -half, -1, mx.float32) * float(step))
    mx.eval(turns)
    return turns


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None, sinks: None = None
) -> mx.array | None:
    """`mx.fast.scaled_dot_product_attention`."""
    if sinks is not None or (isinstance(mask, str) and mask != "causal"):
        return None
    if isinstance(mask, str):
        return _node(ATTENTION, q, k, v, kind=CAUSAL, number=scale)
    return _node(ATTENTION, q, k, v, mask, number=scale)


def swiglu(gate: mx.array, x: mx.array) -> mx.array | None:
    """mlx-lm's `swiglu`."""
    return _node(SWIGLU, gate, x)
