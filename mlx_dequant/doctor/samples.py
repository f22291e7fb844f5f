"""Weights to examine programs with, made up here: any bits, edges, and ordinary numbers."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..backends import use_backend
from ..registry import Format
from ..weights import AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight, QuantizedWeight

# Two bytes that a float16 finds remarkable, and single ones: zeros of both signs, subnormals, the
# largest, infinities, NaN; ends of a scale byte's range.
PAIRS = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)
BYTES = (0x00, 0x01, 0x02, 0x7F, 0x80, 0xFE, 0xFF)
LIMIT = 2.0**10  # of ordinary numbers; and one of a block is at least 1 over it


def unpacked(form: Format) -> list[QuantizedWeight]:
    """Weights whose unpacking is compared: any bits, scales that are no numbers among them."""
    rng = np.random.default_rng(0)
    if form.family == "gguf":
        columns = -(-263 // form.weights)
        random = rng.integers(0, 256, (33, columns * form.bytes), np.uint8)
        return [GGUFWeight(random, form.name), GGUFWeight(_edges(rng, form), form.name), multiplied(form)]
    weights: list[QuantizedWeight] = []
    for dtype in (mx.float16, mx.bfloat16, mx.float32):
        weights += [_group(form, rng, 96, 72, dtype, _any_scales, size, way) for size, way in _ways(form)]
    return [*weights, multiplied(form)]


def _ways(form: Format) -> list[tuple[int, str]]:
    """Group sizes, and what else a family's source can read."""
    ways = {
        "awq": [(16, ""), (-1, "")],
        "gptq": [(16, "v1"), (24, "v1-field"), (-1, "v2"), (16, "act-order")],
        "compressed_tensors": [(16, ""), (24, "no zeros"), (-1, ""), (16, "act-order")],
    }
    return ways[form.family]


def multiplied(form: Format, rows: int = 70, columns: int = 320, way: str = "") -> QuantizedWeight:
    """A weight of ordinary numbers, as it is stored: `rows` and `columns` are rounded up to what it can have."""
    rng = np.random.default_rng(1)
    if form.family != "gguf":
        return _group(form, rng, *_inputs_first(form, rows, columns), mx.float16, _plain_scales, 64, way)
    drawn = rng.integers(0, 256, (4096, form.bytes), np.uint8)
    with use_backend("reference"), np.errstate(all="ignore"):
        size = np.abs(np.asarray(GGUFWeight(drawn, form.name).dequantize(mx.float32))).max(axis=1)
        plain = drawn[(size > 1 / LIMIT) & (size < LIMIT)]
    across = -(-columns // form.weights)
    blocks = plain[rng.integers(0, len(plain), rows * across)]
    return GGUFWeight(blocks.reshape(rows, across * form.bytes), form.name)


def _inputs_first(form: Format, rows: int, columns: int) -> tuple[int, int]:
    """Inputs and outputs of a matrix as its family stores it."""
    return (columns, rows) if form.family == "compressed_tensors" else (rows, columns)


def _edges(rng: np.random.Generator, form: Format) -> NDArray[np.uint8]:
    """Random blocks, each with one remarkable byte or pair of them, at every place; then two of equal bytes."""
    blocks: list[NDArray[np.uint8]] = []
    for pair in PAIRS:
        for at in range(0, form.bytes - 1, 2):
            block = rng.integers(0, 256, form.bytes, np.uint8)
            block[at : at + 2] = pair & 0xFF, pair >> 8
            blocks.append(block)
    for byte in BYTES:
        for at in range(form.bytes):
            block = rng.integers(0, 256, form.bytes, np.uint8)
            block[at] = byte
            blocks.append(block)
    blocks += [np.full(form.bytes, byte, np.uint8) for byte in (0x00, 0xFF)]
    return np.stack(blocks)


def _words(rng: np.random.Generator, *shape: int) -> Any:
    return rng.integers(0, 1 << 32, shape, np.uint32)


def _plain_scales(rng: np.random.Generator, shape: tuple[int, int], dtype: mx.Dtype) -> mx.array:
    return mx.array(rng.normal(0, 0.02, shape).astype(np.float32)).astype(dtype)


def _any_scales(rng: np.random.Generator, shape: tuple[int, int], dtype: mx.Dtype) -> mx.array:
    """Any bits. Where the GPU may flush scales that are subnormal in float32, these are left out."""
    words = _words(rng, *shape)
    if dtype != mx.float16:
        words[(words & 0x7F800000) == 0] |= 0x00800000
        words[(words & 0x7F80) == 0] |= 0x0080
    with mx.stream(mx.cpu):
        return mx.contiguous(mx.array(words).view(dtype)[:, : shape[1]])


def _group(
    form: Format,
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    dtype: mx.Dtype,
    scales: Any,
    group_size: int,
    way: str,
) -> QuantizedWeight:
    bits = form.bits
    if form.family != "compressed_tensors":
        outputs = -(-outputs // 32) * 32
    if form.family == "gptq":
        inputs = -(-inputs // 32) * 32
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    # Groups of one size are sorted for products, others are not.
    orders = {"act-order": rng.permutation(np.arange(inputs) // size), "uneven": rng.integers(0, groups, inputs)}
    order = orders[way].astype(np.int32) if way in orders else None
    if form.family == "awq":
        codes, zeros = _words(rng, inputs, outputs // 8), _words(rng, groups, outputs // 8)
        return AWQWeight(codes, scales(rng, (groups, outputs), dtype), zeros, group_size)
    if form.family == "gptq":
        codes, zeros = _words(rng, inputs * bits // 32, outputs), _words(rng, groups, outputs * bits // 32)
        kind = way if way.startswith("v") else "v1"
        return GPTQWeight(codes, scales(rng, (groups, outputs), dtype), zeros, order, group_size, bits, kind)
    codes, zeros = _words(rng, outputs, -(-inputs * bits // 32)), _words(rng, -(-outputs * bits // 32), groups)
    stored = None if way == "no zeros" else zeros
    full = (outputs, inputs)
    return CompressedTensorsWeight(codes, scales(rng, (outputs, groups), dtype), full, stored, order, bits, group_size)
