"""Sorts the inputs of a weight with act-order by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from . import check

if TYPE_CHECKING:
    from .base import QuantizedWeight

# Bytes of codes that are unpacked at a time.
UNPACKED = 32 << 20
RUN = 32  # inputs that kernels take to share a group


@dataclass(frozen=True)
class SortedByGroup:
    """A weight sorted by group.

    Attributes:
        weight: the same format and outputs, its inputs in order.
        perm: int32 [in], the input of the unsorted weight that each of its inputs was.
        inv_perm: int32 [in], where each input of the unsorted weight went.
    """

    weight: QuantizedWeight
    perm: mx.array
    inv_perm: mx.array


def sort_by_group(weight: QuantizedWeight) -> SortedByGroup | None:
    """`weight` sorted by group, in arrays of its own; scales and zero points stay.

    None where that makes no ordinary weight: its groups are of several sizes, or of one that 32 does not divide.
    """
    name = {"gptq": "qweight", "compressed_tensors": "codes"}[weight.format.family]
    codes, scales, g_idx = (weight.inputs[key] for key in (name, "scales", "g_idx"))
    assert codes is not None and scales is not None and g_idx is not None
    groups = scales.size // weight.out_features
    group = np.asarray(g_idx)
    counts = np.bincount(group, minlength=groups)
    size = int(counts[0])
    if size == 0 or size % RUN or (counts[:-1] != size).any() or counts[-1] > size:
        return None
    inputs = np.argsort(group, kind="stable")
    sorted_codes = _permuted(codes, weight.format.bits, inputs, weight.by_inputs)
    copy = weight.copy(
        inputs={**weight.inputs, name: sorted_codes, "g_idx": None},
        layout=(*check.grouping(size, groups), *weight.layout[3:]),
        has_g_idx=False,
    )
    return SortedByGroup(copy, mx.array(inputs.astype(np.int32)), mx.array(np.argsort(inputs).astype(np.int32)))


def _permuted(words: mx.array, bits: int, inputs: np.ndarray, by_inputs: bool) -> mx.array:
    """Streams of codes down the columns or, not BY_INPUTS, along the rows, with `inputs` in that order."""
    outputs = words.shape[1 if by_inputs else 0]
    step = max(1, UNPACKED // (4 * len(inputs)))
    parts: list[mx.array] = []
    for at in range(0, outputs, step):
        rows = words[:, at : at + step].T if by_inputs else words[at : at + step]
        part = _packed(_codes(rows.view(mx.uint32), bits, inputs), bits)[:, : rows.shape[1]].view(mx.int32)
        parts.append(mx.contiguous(part.T if by_inputs else part))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1 if by_inputs else 0)


def _codes(rows: mx.array, bits: int, inputs: np.ndarray) -> mx.array:
    """Codes `inputs` of each row, a stream of them in words."""
    bit = inputs.astype(np.int64) * bits
    word, shift = bit // 32, mx.array((bit % 32).astype(np.uint32))
    result = rows[:, mx.array(word.astype(np.uint32))] >> shift
    if 32 % bits:
        after = mx.array(np.minimum(word + 1, rows.shape[1] - 1).astype(np.uint32))
        result |= mx.where(shift + bits > 32, rows[:, after] << (32 - shift) % 32, 0)
    return result & (1 << bits) - 1


def _packed(codes: mx.array, bits: int) -> mx.array:
    """Rows of codes as streams in words, filled up with zeros to whole runs of 32 codes."""
    rows, count = codes.shape
    runs = mx.pad(codes, [(0, 0), (0, -count % 32)]).reshape(rows, -1, 32)
    words: list[mx.array] = []
    for i in range(bits):
        first, end = 32 * i // bits, -(-32 * (i + 1) // bits)
        place = np.arange(first, end) * bits - 32 * i
        right, left = (mx.array(np.maximum(shift, 0).astype(np.uint32)) for shift in (-place, place))
        words.append((runs[..., first:end] >> right << left).sum(axis=-1))
    return mx.stack(words, axis=-1).reshape(rows, -1)
