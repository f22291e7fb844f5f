"""Which shapes the arrays of AWQ, GPTQ and compressed-tensors weights have, for arrays of MLX and tensors of torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from . import checks
from .checks import Shaped
from .errors import FormatError
from .fast_divmod import grouping


@dataclass(frozen=True)
class GroupShape:
    """A matrix in groups of inputs.

    Attributes:
        inputs: of the layer.
        outputs: of the layer.
        size: inputs in a group.
        groups: how many there are.
    """

    inputs: int
    outputs: int
    size: int
    groups: int

    @property
    def params(self) -> dict[str, int]:
        """The launch parameters of groups."""
        return grouping(self.size, self.groups)

    @property
    def needs_g_idx(self) -> bool:
        """Whether a kernel has to look up an input's group: without, it assumes that 32 inputs share one."""
        return self.groups > 1 and self.size % 32 != 0


def is_unset(g_idx: Any, is_signed: bool) -> bool:
    """Whether a g_idx says nothing: it is empty, or -1 throughout, which some exporters write without act-order."""
    return prod(g_idx.shape) == 0 or (is_signed and bool((g_idx == -1).all()))


def whole_words(bits: int) -> int:
    """The fewest codes that fill words of 32 bits."""
    return 32 // gcd(32, bits)


def awq(qweight: Shaped, scales: Shaped, qzeros: Shaped, group_size: int) -> GroupShape:
    """Of qweight [in, out/8].

    Raises:
        FormatError: an array's shape does not fit.
    """
    inputs, words = qweight.shape
    found = _grouped(inputs, words * 8, group_size)
    why = f"(in {inputs}, out {found.outputs}, group_size {group_size})"
    checks.shape("scales", scales, (found.groups, found.outputs), why)
    checks.shape("qzeros", qzeros, (found.groups, words), why)
    checks.extent("qweight: outputs", found.outputs)
    return found


def gptq(
    qweight: Shaped, scales: Shaped, qzeros: Shaped | None, has_g_idx: bool, group_size: int, bits: int
) -> GroupShape:
    """Of qweight [in*bits/32, out]. With act-order, the scales say how many groups there are.

    Args:
        qzeros: None or empty for zero points in the middle.

    Raises:
        FormatError: an array's shape does not fit.
    """
    words, outputs = qweight.shape
    if words * 32 % bits:
        raise FormatError(f"qweight: found {words} rows, expected a multiple of {bits} (32 codes of {bits} bits)")
    if outputs % whole_words(bits):
        raise FormatError(f"qweight: found {outputs} outputs, expected a multiple of {whole_words(bits)}")
    found = _grouped(words * 32 // bits, outputs, group_size, scales.shape[0] if has_g_idx else None)
    why = f"(in {found.inputs}, out {outputs}, group_size {group_size}, {bits} bits)"
    checks.shape("scales", scales, (found.groups, outputs), why)
    if qzeros is not None and prod(qzeros.shape):
        checks.shape("qzeros", qzeros, (found.groups, outputs * bits // 32), why)
    checks.extent("qweight: inputs", found.inputs)
    return found


def compressed_tensors(
    codes: Shaped,
    scales: Shaped,
    zeros: Shaped | None,
    shape: tuple[int, int],
    has_g_idx: bool,
    group_size: int,
    bits: int,
) -> GroupShape:
    """Of codes [out, ceil(in*bits/32)]. With act-order, the scales say how many groups there are.

    Args:
        shape: outputs and inputs, below 2**31 each.

    Raises:
        FormatError: an array's shape does not fit.
    """
    outputs, inputs = shape
    why = f"(out {outputs}, in {inputs}, group_size {group_size}, {bits} bits)"
    checks.shape("weight_packed", codes, (outputs, -(-inputs * bits // 32)), why)
    found = _grouped(inputs, outputs, group_size, scales.shape[1] if has_g_idx else None)
    checks.shape("weight_scale", scales, (outputs, found.groups), why)
    if zeros is not None:
        checks.shape("weight_zero_point", zeros, (-(-outputs * bits // 32), found.groups), why)
    return found


def _grouped(inputs: int, outputs: int, group_size: int, groups: int | None = None) -> GroupShape:
    size = checks.group_size(group_size, inputs)
    return GroupShape(inputs, outputs, size, -(-inputs // size) if groups is None else groups)
