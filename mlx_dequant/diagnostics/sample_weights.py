"""Random weights of every format: any bits, or ordinary numbers. Tests, doctor and bench take theirs here."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..backends import use_backend
from ..registry import Format, formats
from ..weights import AWQWeight, CompressedTensorsWeight, GGUFWeight, GPTQWeight, QuantizedWeight

GROUP_FORMATS = [name for name, form in formats().items() if form.family != "gguf"]
GGUF_FORMATS = [name for name, form in formats().items() if form.family == "gguf"]

# The largest weight of a block of ordinary numbers lies between these.
PLAIN = 2.0**-8, 2.0**2
# Rows that are drawn; larger weights repeat them. A prime, so that rows at round distances differ.
DRAWN = 509
# Pairs of bytes that are remarkable as float16: zeros, subnormals, the largest, infinities, NaN.
PAIRS = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)
# Bytes at the ends of a scale byte's range.
BYTES = (0x00, 0x01, 0x02, 0x7F, 0x80, 0xFE, 0xFF)


def gguf(name: str, rng: np.random.Generator, rows: int, columns: int, plain: bool = False) -> GGUFWeight:
    """A GGUF weight of any bytes, or of ordinary numbers; `columns` is rounded up to whole blocks."""
    form = formats()[name]
    shape = min(rows, DRAWN), -(-columns // form.weights)
    if plain:
        pool = plain_blocks(form)
        blocks = pool[rng.integers(0, len(pool), shape)]
    else:
        blocks = rng.integers(0, 256, (*shape, form.bytes), np.uint8)
    return GGUFWeight(np.resize(blocks, (rows, shape[1] * form.bytes)), name)


def groups(
    name: str,
    rng: np.random.Generator,
    in_features: int,
    out_features: int,
    group_size: int = 16,
    scales: mx.Dtype = mx.float16,
    *,
    plain: bool = False,
    g_idx: str = "",
    zeros: str = "v1",
    subnormals: bool = True,
) -> QuantizedWeight:
    """A weight of a group format; the features are rounded up to what it can have.

    Args:
        scales: their type.
        plain: ordinary scales; otherwise any bits, infinities and NaNs too.
        g_idx: "shuffled" for act-order with groups of one size, "uneven" for groups of any size.
        zeros: GPTQ's `zero_points`; for compressed-tensors "none" leaves the tensor out.
        subnormals: whether scales of any bits may be subnormal in float32; a GPU may flush those.
    """
    form = formats()[name]
    bits, whole = form.bits, 32 if form.bits == 3 else 32 // form.bits
    if form.family != "compressed_tensors":
        out_features = -(-out_features // whole) * whole
    if form.family == "gptq":
        in_features = -(-in_features // whole) * whole
    size = in_features if group_size == -1 else group_size
    count = -(-in_features // size)
    index = _group_index(rng, g_idx, in_features, size, count)

    def scale(*shape: int) -> mx.array:
        return _scales(rng, shape, scales, plain, subnormals)

    if form.family == "awq":
        codes, zero_points = _words(rng, in_features, out_features // 8), _words(rng, count, out_features // 8)
        return AWQWeight(codes, scale(count, out_features), zero_points, group_size)
    if form.family == "gptq":
        codes = _words(rng, in_features * bits // 32, out_features)
        zero_points = _words(rng, count, out_features * bits // 32)
        return GPTQWeight(codes, scale(count, out_features), zero_points, index, group_size, bits, zeros)
    codes = _words(rng, out_features, -(-in_features * bits // 32))
    zero_points = None if zeros == "none" else _words(rng, -(-out_features * bits // 32), count)
    shape = out_features, in_features
    return CompressedTensorsWeight(codes, scale(out_features, count), shape, zero_points, index, bits, group_size)


def layer(
    name: str, out_features: int, in_features: int, seed: int = 0, group_size: int = 128, g_idx: str = ""
) -> QuantizedWeight:
    """A linear layer of ordinary numbers, in any format; groups have float16 scales."""
    rng = np.random.default_rng(seed)
    if formats()[name].family == "gguf":
        return gguf(name, rng, out_features, in_features, plain=True)
    return groups(name, rng, in_features, out_features, group_size, plain=True, g_idx=g_idx)


def for_dequantize(name: str) -> list[QuantizedWeight]:
    """Weights that reach every branch of a format's decoder: any bits, edges, and ordinary numbers."""
    rng, form = np.random.default_rng(0), formats()[name]
    if form.family == "gguf":
        return [gguf(name, rng, 33, 263), GGUFWeight(_edges(rng, form), name), layer(name, 70, 320)]
    options: list[dict[str, Any]] = {
        "awq": [{}, {"group_size": -1}],
        "gptq": [{}, {"group_size": 24, "zeros": "v1-field"}, {"group_size": -1, "zeros": "v2"}, {"g_idx": "shuffled"}],
        "compressed_tensors": [{}, {"group_size": 24, "zeros": "none"}, {"group_size": -1}, {"g_idx": "shuffled"}],
    }[form.family]
    types = (mx.float16, mx.bfloat16, mx.float32)
    weights = [
        groups(name, rng, 96, 72, scales=scales, subnormals=scales == mx.float16, **option)
        for scales in types
        for option in options
    ]
    return [*weights, layer(name, 320, 70, group_size=64)]


@cache
def plain_blocks(form: Format) -> NDArray[np.uint8]:
    """Random blocks of a format whose largest weight is of an ordinary size, found by the reference."""
    drawn = np.random.default_rng(1).integers(0, 256, (4096, form.bytes), np.uint8)
    with use_backend("reference"), np.errstate(all="ignore"):
        largest = np.abs(np.asarray(GGUFWeight(drawn, form.name).dequantize(mx.float32))).max(axis=1)
    return drawn[(largest > PLAIN[0]) & (largest < PLAIN[1])]


def _edges(rng: np.random.Generator, form: Format) -> NDArray[np.uint8]:
    """Random blocks, each with one of `PAIRS` or `BYTES` at one place, for every place; then two of equal bytes."""
    pairs = [((pair & 0xFF, pair >> 8), at) for pair in PAIRS for at in range(0, form.bytes - 1, 2)]
    planted = [*pairs, *(((byte,), at) for byte in BYTES for at in range(form.bytes))]
    blocks = rng.integers(0, 256, (len(planted) + 2, form.bytes), np.uint8)
    for block, (values, at) in zip(blocks, planted, strict=False):
        block[at : at + len(values)] = values
    blocks[-2:] = [[0x00], [0xFF]]
    return blocks


def _group_index(rng: np.random.Generator, kind: str, in_features: int, size: int, count: int) -> Any:
    if kind == "shuffled":
        return rng.permutation(np.arange(in_features, dtype=np.int32) // size)
    return rng.integers(0, count, in_features).astype(np.int32) if kind == "uneven" else None


def _words(rng: np.random.Generator, *shape: int) -> Any:
    return rng.integers(0, 1 << 32, shape, np.uint32)


def _scales(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: mx.Dtype, plain: bool, subnormals: bool
) -> mx.array:
    if plain:
        return mx.array(rng.normal(0, 0.02, shape).astype(np.float32)).astype(dtype)
    words = _words(rng, *shape)
    if not subnormals:
        words[(words & 0x7F800000) == 0] |= 0x00800000
        words[(words & 0x7F80) == 0] |= 0x0080
    with mx.stream(mx.cpu):
        return mx.contiguous(mx.array(words).view(dtype)[:, : shape[1]])
