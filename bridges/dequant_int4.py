"""The module that vLLM imports as `dequant_int4`: dequantizes 4-bit AWQ and GPTQ weights."""

from __future__ import annotations

import torch

from ..errors import FormatError
from . import packed


def dequantize_awq(qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group_size: int) -> torch.Tensor:
    """The weights of an AWQ layer: (q - z) * s, with input i in group i // group_size.

    Args:
        qweight: int32 [in, out/8].
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out/8].
        group_size: inputs in a group; -1 for a single group.

    Returns:
        [in, out] in the scales' dtype, on their device.

    Raises:
        FormatError: a tensor's dtype, shape or device does not fit the others.
    """
    return packed.dense(packed.awq(qweight, scales, qzeros, group_size), qweight)


def dequantize_gptq(
    qweight: torch.Tensor,
    scales: torch.Tensor,
    qzeros: torch.Tensor,
    g_idx: torch.Tensor | None,
    group_size: int,
    zero_adj: int,
) -> torch.Tensor:
    """The weights of a GPTQ layer: (q - z - zero_adj) * s, with input i in group g_idx[i].

    Args:
        qweight: int32 [in/8, out].
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out/8].
        g_idx: int32 [in]; None or empty means i // group_size.
        group_size: inputs in a group; -1 for a single group.
        zero_adj: added to each stored zero point, without wrapping: 1 for checkpoints of version 1, 0 for 2.

    Returns:
        [in, out] in the scales' dtype, on their device.

    Raises:
        FormatError: a tensor's dtype, shape or device does not fit the others, or g_idx is out of range.
    """
    added = packed.integer("zero_adj", zero_adj)
    if added not in (0, 1):
        raise FormatError(f"zero_adj: found {added}, expected 1 (version 1) or 0 (version 2)")
    mode = "v1-field" if added else "v2"
    return packed.dense(packed.gptq(qweight, scales, qzeros, g_idx, group_size, mode), qweight)
