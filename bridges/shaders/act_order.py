"""Act-order: a matrix whose inputs are sorted by group, made once by torch on the layer's device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...encoded import EncodedMatrix
from ...fast_divmod import grouping

CHUNK_BYTES = 32 << 20  # of codes that are bit-unpacked at a time
GROUP_MULTIPLE = 32  # kernels assume that as many inputs share a group


def sort_by_group(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """`matrix` with its inputs sorted by group, made once; None without a g_idx or if it cannot be sorted."""
    if not matrix.has_g_idx:
        return None
    if "sorted" not in matrix.cache:
        matrix.cache["sorted"] = _sorted(matrix)
    return matrix.cache["sorted"]


def _sorted(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """The sorted matrix, with codes of its own. None for groups of different sizes or of a size not divided by 32."""
    name = matrix.family.codes
    codes, scales, g_idx = (matrix.arrays[key] for key in (name, "scales", "g_idx"))
    group = g_idx.cpu().numpy()
    groups = scales.numel() // matrix.N
    counts = np.bincount(group, minlength=groups)
    size = int(counts[0])
    if size == 0 or size % GROUP_MULTIPLE or (counts[:-1] != size).any() or counts[-1] > size:
        return None
    perm = np.argsort(group, kind="stable")
    sorted_codes = _permuted(codes, matrix.format.bits, perm, matrix.layout == "KN")
    orders = [torch.from_numpy(order.astype(np.int32)).to(codes.device) for order in (perm, np.argsort(perm))]
    return replace(
        matrix,
        arrays={**matrix.arrays, name: sorted_codes, "g_idx": None},
        loader_params={**matrix.loader_params, **grouping(size, groups)},
        has_g_idx=False,
        perm=orders[0],
        inv_perm=orders[1],
        cache={},
    )


def _permuted(words: torch.Tensor, bits: int, perm: np.ndarray, kn: bool) -> torch.Tensor:
    """Codes packed down the columns (layout KN) or along the rows (NK), in the order of `perm`."""
    result = torch.empty_like(words)
    by_output, sorted_by_output = (words.T, result.T) if kn else (words, result)
    step = max(1, CHUNK_BYTES // (4 * len(perm)))
    for at in range(0, len(by_output), step):
        rows = by_output[at : at + step].contiguous()
        sorted_by_output[at : at + step] = _packed(_codes(rows, bits, perm), bits)[:, : rows.shape[1]]
    return result


def _codes(rows: torch.Tensor, bits: int, perm: np.ndarray) -> torch.Tensor:
    """The codes that `perm` names, of each row of packed words."""

    def number(values: np.ndarray, dtype: type = np.int32) -> torch.Tensor:
        return torch.from_numpy(values.astype(dtype)).to(rows.device)

    bit = perm.astype(np.int64) * bits
    word, shift = bit // 32, bit % 32
    here = np.minimum(bits, 32 - shift)  # bits of the code in its first word; torch's shifts copy the sign
    codes = rows[:, number(word, np.int64)] >> number(shift) & number((1 << here) - 1)
    if 32 % bits:
        after = np.minimum(word + 1, rows.shape[1] - 1)
        rest = rows[:, number(after, np.int64)] & number((1 << bits - here) - 1)
        codes |= rest << number(here)
    return codes


def _packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows of codes packed into words, with zeros up to a multiple of 32 codes."""
    rows, count = codes.shape
    blocks = torch.nn.functional.pad(codes, (0, -count % 32)).reshape(rows, -1, 32)
    words = torch.zeros((*blocks.shape[:2], bits), dtype=torch.int32, device=codes.device)
    for code in range(32):
        word, shift = divmod(code * bits, 32)
        words[..., word] |= blocks[..., code] << shift
        if shift + bits > 32:
            words[..., word + 1] |= blocks[..., code] >> 32 - shift
    return words.reshape(rows, -1)
