"""Scales by tensor, output, group or block, as one for each output and group."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ...errors import FormatError
from ..settings import Settings


def by_output(scales: mx.array, outputs: int, inputs: int, settings: Settings) -> tuple[mx.array, int]:
    """Scales [out, groups], and the inputs of a group; -1 for a single group."""
    if scales.size == 1:
        return mx.broadcast_to(scales.reshape(1, 1), (outputs, 1)), -1
    if scales.shape in ((outputs,), (outputs, 1)):
        return scales.reshape(outputs, 1), -1
    height, width = _block(scales.shape, outputs, inputs, settings)
    return mx.repeat(scales, height, axis=0)[:outputs], width


def _block(shape: Any, outputs: int, inputs: int, settings: Settings) -> tuple[int, int]:
    """Rows and columns that share each of the scales of a shape.

    Raises:
        FormatError: no block that the settings allow gives that shape.
    """
    size = settings.group_size if settings.group_size > 0 else 0
    blocks = [settings.block] if settings.block else [(1, size)] if size else []
    blocks += [(128, 128)] if not settings.block else []
    if len(shape) == 2 and shape[0] == outputs and shape[1] and inputs and inputs % shape[1] == 0 and not blocks[:-1]:
        blocks.append((1, inputs // shape[1]))
    for height, width in blocks:
        if tuple(shape) == (-(-outputs // height), -(-inputs // width)):
            return min(height, max(outputs, 1)), min(width, max(inputs, 1))
    expected = " or ".join(f"blocks of {height}x{width}" for height, width in blocks)
    raise FormatError(
        f"weight_scale: found shape {tuple(shape)} for {outputs}x{inputs} weights, expected 1, {outputs} or {expected}"
    )
