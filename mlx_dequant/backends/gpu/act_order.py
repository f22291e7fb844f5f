"""Act-order: a matrix, or a stack of them, whose inputs are sorted by group, cached with the original."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ... import act_order
from ...act_order import CHUNK_BYTES
from ...encoded import EncodedMatrix


def sort_by_group(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """`matrix` with its inputs sorted by group, made once; None without a g_idx or if it cannot be sorted."""
    return act_order.sort_by_group(matrix, _permuted, np.asarray, lambda order: _evaluated(mx.array(order)))


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)  # other threads could not evaluate it
    return array


def _permuted(words: mx.array, bits: int, perm: np.ndarray, kn: bool) -> mx.array:
    """Codes packed down the columns (layout KN) or along the rows (NK), in the order of `perm`, of each expert."""
    if perm.ndim == 2:
        return _stacked(words, bits, perm, kn)
    outputs = words.shape[1 if kn else 0]
    step = max(1, CHUNK_BYTES // (4 * len(perm)))
    parts: list[mx.array] = []
    for at in range(0, outputs, step):
        rows = words[:, at : at + step].T if kn else words[at : at + step]
        part = _packed(_codes(rows.view(mx.uint32), bits, perm), bits)[:, : rows.shape[1]].view(mx.int32)
        parts.append(mx.contiguous(part.T if kn else part))
        mx.eval(parts[-1])
    return _evaluated(mx.concatenate(parts, axis=1 if kn else 0))


def _stacked(words: mx.array, bits: int, perm: np.ndarray, kn: bool) -> mx.array:
    """The same of each expert, one after the other: MLX writes into the new stack."""
    result = mx.zeros(words.shape, words.dtype)
    for expert, order in enumerate(perm):
        result[expert] = _permuted(words[expert], bits, order, kn)
        mx.eval(result)
    return result


def _codes(rows: mx.array, bits: int, perm: np.ndarray) -> mx.array:
    """The codes that `perm` names, of each row of packed words."""
    bit = perm.astype(np.int64) * bits
    word, shift = bit // 32, mx.array((bit % 32).astype(np.uint32))
    result = rows[:, mx.array(word.astype(np.uint32))] >> shift
    if 32 % bits:
        after = mx.array(np.minimum(word + 1, rows.shape[1] - 1).astype(np.uint32))
        result |= mx.where(shift + bits > 32, rows[:, after] << (32 - shift) % 32, 0)
    return result & (1 << bits) - 1


def _packed(codes: mx.array, bits: int) -> mx.array:
    """Rows of codes packed into words, with zeros up to a multiple of 32 codes."""
    rows, count = codes.shape
    blocks = mx.pad(codes, [(0, 0), (0, -count % 32)]).reshape(rows, -1, 32)
    words: list[mx.array] = []
    for i in range(bits):  # word i of the `bits` words that 32 codes fill
        first, end = 32 * i // bits, -(-32 * (i + 1) // bits)
        offset = np.arange(first, end) * bits - 32 * i
        right, left = (mx.array(np.maximum(shift, 0).astype(np.uint32)) for shift in (-offset, offset))
        words.append((blocks[..., first:end] >> right << left).sum(axis=-1))
    return mx.stack(words, axis=-1).reshape(rows, -1)
