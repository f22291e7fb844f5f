"""Act-order: a matrix whose inputs are sorted by group, made once by torch on the layer's device."""

from __future__ import annotations

import numpy as np
import torch

from ... import act_order
from ...act_order import CHUNK_BYTES
from ...encoded import EncodedMatrix


def sort_by_group(matrix: EncodedMatrix) -> EncodedMatrix | None:
    """`matrix` with its inputs sorted by group, made once; None without a g_idx or if it cannot be sorted."""
    if not matrix.has_g_idx:
        return None
    device = matrix.arrays[matrix.family.codes].device
    return act_order.sort_by_group(
        matrix, _permuted, lambda g_idx: g_idx.cpu().numpy(), lambda order: torch.from_numpy(order).to(device)
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
