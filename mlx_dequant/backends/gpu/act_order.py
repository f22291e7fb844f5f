"""Act-order: a matrix whose inputs are sorted by group, cached with the original."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...encoded import EncodedMatrix
from ...fast_divmod import grouping

# Bytes of codes that are bit-unpacked at a time.
CHUNK_BYTES = 32 << 20
GROUP_MULTIPLE = 32  # groups must be multiples of this many inputs, which kernels assume to share a group


def sort_by_group(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """`matrix` with its inputs sorted by group, made once; None without a g_idx or if it cannot be sorted."""
    if not matrix.has_g_idx:
        return None
    if "sorted" not in matrix.cache:
        matrix.cache.setdefault("sorted", _sorted(matrix))
    return matrix.cache["sorted"]


def _sorted(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """The sorted matrix. Codes are new; scales and zero points are shared.

    None if the groups have different sizes, or a size that 32 does not divide.
    """
    name = matrix.family.codes
    codes, scales, g_idx = (matrix.arrays[key] for key in (name, "scales", "g_idx"))
    groups = scales.size // matrix.N
    group = np.asarray(g_idx)
    counts = np.bincount(group, minlength=groups)
    size = int(counts[0])
    if size == 0 or size % GROUP_MULTIPLE or (counts[:-1] != size).any() or counts[-1] > size:
        return None
    perm = np.argsort(group, kind="stable")
    sorted_codes = _permuted(codes, matrix.format.bits, perm, matrix.layout == "KN")
    orders = [mx.array(order.astype(np.int32)) for order in (perm, np.argsort(perm))]
    mx.eval(sorted_codes, orders)  # other threads could not evaluate them
    return replace(
        matrix,
        arrays={**matrix.arrays, name: sorted_codes, "g_idx": None},
        loader_params={**matrix.loader_params, **grouping(size, groups)},
        has_g_idx=False,
        perm=orders[0],
        inv_perm=orders[1],
        cache={},
        replays=None,
    )


def _permuted(words: mx.array, bits: int, perm: np.ndarray, kn: bool) -> mx.array:
    """Codes packed down the columns (layout KN) or along the rows (NK), in the order of `perm`."""
    outputs = words.shape[1 if kn else 0]
    step = max(1, CHUNK_BYTES // (4 * len(perm)))
    parts: list[mx.array] = []
    for at in range(0, outputs, step):
        rows = words[:, at : at + step].T if kn else words[at : at + step]
        part = _packed(_codes(rows.view(mx.uint32), bits, perm), bits)[:, : rows.shape[1]].view(mx.int32)
        parts.append(mx.contiguous(part.T if kn else part))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1 if kn else 0)


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
