"""Weights that lie in one, so that one product serves all that multiply the same x."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from ..encoded import EncodedMatrix
from ..launches import EXPERT_BYTES
from ..ops.operand import SHARED
from ..ops.shared import Share, SharedProduct
from .base import QuantizedWeight
from .cut import ROWS, Cut, Packing

# Rows of x beyond which weights of layout NK multiply by themselves: the outputs of one product lie apart, which then
# costs more than the product saves. In layout KN it is the weights' own arrays that lie apart.
MOST_ROWS = 16


def alike(weight: QuantizedWeight) -> Hashable:
    """What weights that `fuse` takes have in common: format, inputs, groups, and the order of inputs with act-order."""
    matrix = weight.matrix
    present = tuple(name for name, array in weight.arrays.items() if array is not None)
    order = np.asarray(matrix.arrays["g_idx"]).tobytes() if matrix.has_g_idx else b""
    numbers = tuple(sorted(matrix.loader_params.items()))
    return weight.format.name, weight.in_features, matrix.scale_dtype, numbers, present, order


def fuse(weights: Sequence[QuantizedWeight], title: str) -> list[QuantizedWeight] | None:
    """The same weights, on arrays that lie in one, with one product for all (`SharedProduct`).

    Views of layout KN are strided: what else uses such a weight alone, as `dequantize` and a product after the sharing
    has ended, makes a contiguous copy of its arrays once, and keeps it with the weight.

    Args:
        weights: matrices that are `alike`.
        title: of them, for the log.

    Returns:
        A weight for each, whose arrays are views; None if the weights cannot lie in one: outputs would begin inside a
        word of codes, or at no multiple of 16 bytes.
    """
    matrix = weights[0].matrix
    sizes = [weight.out_features for weight in weights]
    edges = [0, *accumulate(sizes)]
    packing = Packing(matrix.format, matrix.group_size, matrix.has_g_idx)
    if any(edge % packing.units(matrix.K)[0] for edge in edges[:-1]):
        return None
    cuts = [Cut(ROWS, edges[-1], (run,)) for run in pairwise(edges)]
    arrays, parts = dict(matrix.arrays), [dict(matrix.arrays) for _ in weights]
    for name, array in matrix.arrays.items():
        places = [None if array is None else packing.places(name, cut) for cut in cuts]
        if places[0] is None:  # equal in all
            continue
        each: Any = [weight.arrays[name] for weight in weights]
        together = mx.concatenate(each, places[0].axis)
        views = [together[place.slices(together.shape)[0]] for place in places if place]
        if matrix.layout == "NK" and any(view.nbytes % EXPERT_BYTES for view in views[:-1]):
            return None
        arrays[name] = together
        for part, view in zip(parts, views, strict=True):
            part[name] = view
    whole = weights[0]._with(_resized(matrix, arrays, edges[-1]))
    most = MOST_ROWS * matrix.K if matrix.layout == "NK" else sys.maxsize
    product = SharedProduct(whole, sizes, most, title)
    made = [weight._with(replace(weight.matrix, arrays=part)) for weight, part in zip(weights, parts, strict=True)]
    for member, weight in enumerate(made):
        weight.matrix.cache[SHARED] = Share(product, member)
    return made


def joint(weight: QuantizedWeight) -> QuantizedWeight:
    """The weight that multiplies for this one and others; the weight itself if it is not fused."""
    product = shared_by(weight)
    return weight if product is None else product.joint or weight


def multiplying(weight: QuantizedWeight, few: bool) -> QuantizedWeight:
    """The weight that multiplies for this one, with at most `MOST_ROWS` rows of x (`few`) or with more."""
    return joint(weight) if few or weight.matrix.layout == "KN" else weight


def shared_by(weight: QuantizedWeight) -> SharedProduct | None:
    """The product that a fused weight shares with others."""
    share: Share | None = weight.matrix.cache.get(SHARED)
    return None if share is None else share.product


def _resized(matrix: EncodedMatrix, arrays: dict[str, Any], outputs: int) -> EncodedMatrix:
    if matrix.layout == "KN":
        return replace(matrix, arrays=arrays, columns=outputs)
    return replace(matrix, arrays=arrays, rows=outputs)
