"""The reference: plain arrays on the CPU, slow and obvious. Shares no code and no table with `metal/`.

GGUF types are gguf-py's own dequantization; Q1_0 and Q2_0, which it lacks, follow ggml's C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from ..weights.base import QuantizedWeight


def available() -> bool:
    """Always: it needs NumPy alone."""
    return True


def dequantize(weight: QuantizedWeight, dtype: mx.Dtype) -> mx.array:
    exact = {"gguf": _gguf, "awq": _awq, "gptq": _gptq, "compressed_tensors": _compressed_tensors}[
        weight.format.family
    ](weight)
    return rounded(exact, dtype).reshape(weight.shape)


def product(weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] times the stored matrix transposed (`transpose`), or x [..., rows] times it."""
    dense = numpy(dequantize(weight, mx.float32)).reshape(weight.rows, weight.columns)
    return rounded(numpy(x).astype(np.float32) @ (dense.T if transpose else dense), x.dtype)


def take(weight: QuantizedWeight, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1)."""
    dense = numpy(dequantize(weight, mx.float32)).reshape(weight.rows, weight.columns)
    dense = dense.T if axis else dense
    return rounded(np.ascontiguousarray(dense[checked_ids(ids, len(dense))]), dtype)


def checked_ids(ids: mx.array, count: int) -> np.ndarray:
    """int32 ids in 0 .. count - 1; negative ones count from the end."""
    given = numpy(ids).reshape(-1)
    if given.size and (given.min() < -count or given.max() >= count):
        raise IndexError(f"ids: found {given.min()} to {given.max()}, expected {-count} to {count - 1}")
    return np.where(given < 0, given + count, given).astype(np.int32)


def rounded(exact: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """float32 values in `dtype`, rounded to nearest even."""
    if dtype == mx.bfloat16:
        bits = np.ascontiguousarray(exact).view(np.uint32)
        even = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        high = np.where(np.isnan(exact), bits >> 16 | 0x40, even)
        with mx.stream(mx.cpu):
            return mx.array(high.astype(np.uint16)).view(mx.bfloat16)
    if dtype == mx.float16:
        with np.errstate(over="ignore"):
            exact = exact.astype(np.float16)
    return mx.array(exact)


def numpy(array: mx.array | None) -> np.ndarray:
    """An array as NumPy has it; bfloat16 as float32, packed words as uint32."""
    assert array is not None
    if array.dtype == mx.bfloat16:
        with mx.stream(mx.cpu):
            high = np.asarray(array.view(mx.uint16))
        return (high.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array)


def codes(words: np.ndarray, bits: int, axis: int, count: int) -> np.ndarray:
    """The first `count` codes along `axis` of a stream of `bits`-bit codes, lowest bits first."""
    words = np.moveaxis(words, axis, -1)
    octets = np.ascontiguousarray(words).view(np.uint8)
    stream = np.unpackbits(octets, axis=-1, bitorder="little")[..., : count * bits]
    values = stream.reshape(*stream.shape[:-1], count, bits) @ (1 << np.arange(bits)).astype(np.int32)
    return np.moveaxis(values, -1, axis)


def _gguf(weight: QuantizedWeight) -> np.ndarray:
    blocks = numpy(weight.inputs["blocks"])
    d = blocks.reshape(-1, weight.format.bytes)[:, :2].copy().view(np.float16).astype(np.float32)
    packed = blocks.reshape(-1, weight.format.bytes)[:, 2:]
    with np.errstate(all="ignore"):
        if weight.format.name == "q1_0":
            return np.where(np.unpackbits(packed, axis=1, bitorder="little"), d, -d)
        if weight.format.name == "q2_0":
            fields = packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
            return d * (fields.reshape(len(d), 64).astype(np.float32) - 1)
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(weight.format.ggml_type)).astype(
            np.float32, copy=False
        )


def _scaled(q: np.ndarray, z: np.ndarray, s: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (q - z).astype(np.float32) * s.astype(np.float32)


def _group(weight: QuantizedWeight, inputs: int) -> np.ndarray:
    given = weight.inputs.get("g_idx")
    return np.arange(inputs) // weight.layout[0] if given is None else numpy(given)


def _awq(weight: QuantizedWeight) -> np.ndarray:
    inputs, outputs = weight.shape
    place = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    column = np.arange(outputs) // 8 * 8 + place[np.arange(outputs) % 8]
    q = codes(numpy(weight.inputs["qweight"]), 4, 1, outputs)[:, column]
    z = codes(numpy(weight.inputs["qzeros"]), 4, 1, outputs)[:, column]
    group = _group(weight, inputs)
    return _scaled(q, z[group], numpy(weight.inputs["scales"])[group])


def _gptq(weight: QuantizedWeight) -> np.ndarray:
    inputs, outputs = weight.shape
    bits = weight.format.bits
    *_, whole_word, by_field = weight.layout
    words = numpy(weight.inputs["qzeros"]).view(np.uint32)
    if whole_word and bits != 3:
        words = words + np.uint32(whole_word)
    z = codes(words, bits, 1, outputs)
    if whole_word and bits == 3:
        z = (z + 1) % 8
    z = z + by_field
    group = _group(weight, inputs)
    q = codes(numpy(weight.inputs["qweight"]), bits, 0, inputs)
    return _scaled(q, z[group], numpy(weight.inputs["scales"])[group])


def _compressed_tensors(weight: QuantizedWeight) -> np.ndarray:
    outputs, inputs = weight.shape
    bits = weight.format.bits
    group = _group(weight, inputs)
    q = codes(numpy(weight.inputs["codes"]), bits, 1, inputs)
    z = np.full((outputs, weight.layout[-1]), 1 << bits - 1)
    if weight.inputs["zeros"] is not None:
        z = codes(numpy(weight.inputs["zeros"]), bits, 0, outputs)
    return _scaled(q, z[:, group], numpy(weight.inputs["scales"])[:, group])
