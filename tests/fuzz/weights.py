"""Weights out of bytes: mostly of arrays that fit each other, and now and then one that does not."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

from .draw import Draw

GGUF = [form.title for form in mxd.formats().values() if form.family == "gguf"]
KINDS = ("i4", "u4", "i8", "u1", "i1", "i2", "f2", "f4", "f8", "?", "c8")
ODD = (0, 1, 2, 3, -1, -2, 7, 31, 33, 64, 129, 2**31 - 1, 2**31, 2**63, -(2**63), 0.5, None, "4", True, [4], 10**30)


def _scales(draw: Draw, shape: tuple[int, ...]) -> Any:
    kind = draw.one_of("f2", "f4", "bf16")
    if kind == "bf16":
        return mx.array(draw.array(shape, "u2")).view(mx.bfloat16)
    return draw.array(shape, kind)


def _spoilt(draw: Draw, value: Any) -> Any:
    """A value as it is, or, one time in eight, another."""
    if draw.below(8) != 7:
        return value
    if not isinstance(value, (np.ndarray, mx.array)):
        return draw.one_of(*ODD)
    shape = list(value.shape)
    match draw.below(6):
        case 0:
            return None
        case 1 if shape:
            shape[draw.below(len(shape))] = draw.one_of(0, 1, 2, 5, 8, 32)
        case 2:
            shape.insert(0, draw.one_of(0, 1, 2))
        case 3 if shape:
            shape.pop()
        case 4:
            return value.T
        case 5 if len(shape) == 2:
            return value[::-1, ::2]
    return draw.array(tuple(shape), draw.one_of(*KINDS))


def drawn_weight(draw: Draw) -> mxd.QuantizedWeight:
    """A weight of one of the classes; FormatError where its arrays do not fit."""
    family = draw.one_of("gguf", "awq", "gptq", "ct")
    if family == "gguf":
        kind = draw.one_of(*GGUF)
        form = next(form for form in mxd.formats().values() if form.title == kind)
        axes = tuple(draw.below(4) for _ in range(draw.below(3)))
        blocks = draw.array((*axes, draw.below(4) * form.bytes), "u1")
        shape = (*axes, blocks.shape[-1] // form.bytes * form.weights) if draw.below(2) else None
        return mxd.GGUFWeight(_spoilt(draw, blocks), _spoilt(draw, kind), _spoilt(draw, shape))
    bits = 4 if family == "awq" else draw.one_of(2, 3, 4, 8)
    inputs, outputs = 32 * draw.below(5), 32 * draw.below(3)
    size = draw.one_of(32, 64, 16, 128, -1, 7)
    groups = -(-inputs // (max(inputs, 1) if size == -1 else size))
    index = draw.array((inputs,), "i4") % max(groups, 1) if draw.below(2) else None
    if family == "awq":
        codes, zeros = draw.array((inputs, outputs // 8), "i4"), draw.array((groups, outputs // 8), "i4")
        scales = _scales(draw, (groups, outputs))
        return mxd.AWQWeight(*(_spoilt(draw, each) for each in (codes, scales, zeros, size)))
    if family == "gptq":
        codes, zeros = (
            draw.array((inputs * bits // 32, outputs), "i4"),
            draw.array((groups, outputs * bits // 32), "i4"),
        )
        arrays = (codes, _scales(draw, (groups, outputs)), zeros, index)
        kind = draw.one_of("v1", "v1-field", "v2")
        return mxd.GPTQWeight(
            *(_spoilt(draw, each) for each in arrays), *(_spoilt(draw, n) for n in (size, bits)), kind
        )
    inputs -= draw.below(8) if inputs else 0
    groups = -(-inputs // (max(inputs, 1) if size == -1 else size))
    codes, scales = draw.array((outputs, -(-inputs * bits // 32)), "i4"), _scales(draw, (outputs, groups))
    zeros = draw.array((-(-outputs * bits // 32), groups), "i4") if draw.below(2) else None
    index = draw.array((inputs,), "i4") % max(groups, 1) if draw.below(2) else None
    arrays = (codes, scales, (outputs, inputs), zeros, index, bits, size)
    return mxd.CompressedTensorsWeight(*(_spoilt(draw, each) for each in arrays))
