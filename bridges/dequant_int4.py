"""The module that vLLM imports as `dequant_int4`: dequantizes 4-bit AWQ and GPTQ weights."""

from __future__ import annotations

import torch

from ..errors import FormatError
from . import arguments
from .operators import operator

AWQ, GPTQ = operator("awq", "dequantize"), operator("gptq", "dequantize")


@torch.no_grad()
def dequantize_awq(qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group_size: int) -> torch.Tensor:
    """The weights of an AWQ layer: (q - z) * s, with input i in group i // group_size.

    Args:
        qweight: int32 [in, out/8].
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out/8].
        group_size: inputs in a group; -1 for a single group.

    Returns:
        [in, out] in the scales' dtype, on their device. On the CPU, 16-bit results are views of [out, in].

    Raises:
        FormatError: a tensor's dtype, shape or device does not fit the others.
    """
    arguments.together(qweight=qweight, scales=scales, qzeros=qzeros)
    return _for_products(AWQ(qweight, scales, qzeros, arguments.integer("group_size", group_size), None))


@torch.no_grad()
def dequantize_gptq(
    qweight: torch.Tensor,
    scales: torch.Tensor,
    qzeros: torch.Tensor,
    g_idx: torch.Tensor | None,
    group_size: int,
    zero_adj: int,
) -> torch.Tensor:
    """The weights of a GPTQ layer of any bits: (q - z - zero_adj) * s, with input i in group g_idx[i].

    Args:
        qweight: int32 [in*bits/32, out]; bits are 2, 3, 4 or 8, as the width of qzeros says.
        scales: float16, bfloat16 or float32 [groups, out].
        qzeros: int32 [groups, out*bits/32].
        g_idx: int32 [in]; None or empty means i // group_size.
        group_size: inputs in a group; -1 for a single group.
        zero_adj: added to each stored zero point, without wrapping: 1 for checkpoints of version 1, 0 for 2.

    Returns:
        [in, out] in the scales' dtype, on their device. On the CPU, 16-bit results are views of [out, in].

    Raises:
        FormatError: a tensor's dtype, shape or device does not fit the others, or g_idx is out of range.
    """
    added = arguments.integer("zero_adj", zero_adj)
    if added not in (0, 1):
        raise FormatError(f"zero_adj: found {added}, expected 1 (version 1) or 0 (version 2)")
    mode = "v1-field" if added else "v2"
    arguments.together(**arguments.gptq(qweight, scales, qzeros, g_idx))
    size, bits = arguments.integer("group_size", group_size), _bits(scales, qzeros)
    return _for_products(GPTQ(qweight, scales, qzeros, g_idx, size, mode, bits, None))


def _for_products(dense: torch.Tensor) -> torch.Tensor:
    """[in, out] as torch multiplies it fastest: in 16-bit types on the CPU a view of [out, in], by 20 to 80 times."""
    is_slow = dense.device.type == "cpu" and dense.dtype != torch.float32
    return dense.T.contiguous().T if is_slow else dense


def _bits(scales: torch.Tensor, qzeros: torch.Tensor) -> int:
    """Bits of a code; 4 where the shapes say none, so that the error is that of 4."""
    if scales.ndim != 2 or qzeros.ndim != 2 or not scales.shape[1]:
        return 4
    bits = qzeros.shape[1] * 32 / scales.shape[1]
    return int(bits) if bits in arguments.BITS else 4
