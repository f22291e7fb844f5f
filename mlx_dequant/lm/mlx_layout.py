"""Quantized weights in MLX's own layout, where it has one for their codes.

MLX's affine mode: w = scale*q + bias for each group of 32, 64 or 128 inputs, q of 2, 3, 4, 5, 6 or 8 bits, codes as a
dense stream of bits, lowest first, in uint32; scale and bias in the model's float type. Its modes mxfp4 and nvfp4:
4-bit floats with a uint8 scale for 32 and for 16 inputs, as in GGUF's types of these names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..nn import rows
from ..weights import QuantizedWeight
from ..weights.bitfields import pack_stream, unpack_stream

Floats = NDArray[np.float32]
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)
# The magnitudes of 4-bit floats (e2m1) by their low three bits; the fourth is the sign.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
# Those three bits, by twice the magnitude.
CODES = np.array([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7], np.uint8)


@dataclass(frozen=True)
class MLXWeight:
    """A weight as a layer of MLX's own has it.

    Attributes:
        arrays: "weight" uint32, "scales", and in affine mode "biases".
        settings: "group_size", "bits" and "mode", as config.json has them.
        error: largest difference to the weight, relative to the largest weight.
    """

    arrays: dict[str, mx.array]
    settings: dict[str, Any]
    error: float


def mlx_weight(weight: QuantizedWeight) -> MLXWeight | None:
    """The weight [..., out, in] with its own codes in MLX's layout; None if MLX has none for them.

    Scales and biases are rounded to float16 where they are no float16 already: that is the error, of a stack the
    largest of its experts'.
    """
    if len(weight.shape) == 2:
        return _matrix(weight)
    experts: list[MLXWeight] = []
    for each in weight:
        found = _matrix(each)
        if found is None:
            return None
        experts.append(found)
    arrays = {name: mx.stack([each.arrays[name] for each in experts]) for name in experts[0].arrays}
    return MLXWeight(arrays, experts[0].settings, max(each.error for each in experts))


def _matrix(weight: QuantizedWeight) -> MLXWeight | None:
    name = weight.format.name
    if name in _SMALL_FLOATS:
        return _small_floats(name, weight, _exact(weight))
    found = _GGUF[name](_blocks(weight)) if name in _GGUF else _groups(weight)
    if found is None:
        return None
    scales, biases, bits, size = found
    groups = _regrouped(weight.in_features, size)
    if groups is None or bits not in AFFINE_BITS:
        return None
    index, size = groups
    exact = _exact(weight)
    scales, biases = scales[:, index], biases[:, index]
    spread = np.repeat(scales, size, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint((exact - np.repeat(biases, size, axis=1)) / spread)
    codes = np.where(spread == 0, 0, codes).astype(np.uint8)
    with np.errstate(over="ignore"):
        scales, biases = scales.astype(np.float16), biases.astype(np.float16)
    values = codes * np.repeat(scales, size, axis=1).astype(np.float32)
    values += np.repeat(biases, size, axis=1).astype(np.float32)
    arrays = {"weight": _words(codes, bits), "scales": mx.array(scales), "biases": mx.array(biases)}
    return MLXWeight(arrays, {"group_size": size, "bits": bits, "mode": "affine"}, error(values, exact))


def _exact(weight: QuantizedWeight) -> Floats:
    return np.asarray(rows(weight, mx.float32))


def error(values: Floats, exact: Floats) -> float:
    largest = float(np.abs(exact).max(initial=0))
    return float(np.abs(values - exact).max(initial=0)) / largest if largest else 0.0


def _words(codes: NDArray[np.uint8], bits: int) -> mx.array:
    return mx.array(pack_stream(codes, bits).view(np.uint32))


def _regrouped(inputs: int, size: int) -> tuple[NDArray[Any], int] | None:
    """Which group each of MLX's takes its scale from, and the size of those."""
    for wanted in GROUPS:
        if size % wanted == 0 and inputs % wanted == 0:
            return np.arange(0, inputs, wanted) // size, wanted
    return None


def _blocks(weight: QuantizedWeight) -> NDArray[np.uint8]:
    """[out, blocks, bytes of a block]."""
    blocks = np.asarray(weight.arrays["blocks"])
    return blocks.reshape(weight.out_features, -1, weight.format.bytes)


def _half(blocks: NDArray[np.uint8], at: int) -> Floats:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


Affine = tuple[Floats, Floats, int, int]  # scales and biases [out, groups], bits, inputs in a group


def _centred(bits: int) -> Callable[[NDArray[np.uint8]], Affine]:
    """w = d*(q - half), a float16 d at the start of 32 weights."""
    return lambda blocks: (_half(blocks, 0), -(2.0 ** (bits - 1)) * _half(blocks, 0), bits, 32)


def _with_minimum(bits: int) -> Callable[[NDArray[np.uint8]], Affine]:
    """w = d*q + m, two float16 at the start of 32 weights."""
    return lambda blocks: (_half(blocks, 0), _half(blocks, 2), bits, 32)


def _superblocks(bits: int) -> Callable[[NDArray[np.uint8]], Affine]:
    """w = d*s*q - dmin*m: eight pairs of 6-bit numbers s and m in 12 bytes, for 32 weights each."""

    def affine(blocks: NDArray[np.uint8]) -> Affine:
        low, middle, high = (blocks[..., start : start + 4] for start in (4, 8, 12))
        scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
        minima = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=-1)
        rows = len(blocks)
        scale = (_half(blocks, 0)[..., None] * scales).reshape(rows, -1)
        bias = -(_half(blocks, 2)[..., None] * minima).reshape(rows, -1)
        return scale, bias, bits, 32

    return affine


_GGUF: dict[str, Callable[[NDArray[np.uint8]], Affine]] = {
    "q4_0": _centred(4),
    "q4_1": _with_minimum(4),
    "q5_0": _centred(5),
    "q5_1": _with_minimum(5),
    "q8_0": _centred(8),
    "q4_k": _superblocks(4),
    "q5_k": _superblocks(5),
}


def _groups(weight: QuantizedWeight) -> Affine | None:
    """AWQ, GPTQ and compressed-tensors without act-order: w = s*(q - z)."""
    form = weight.format
    if form.family == "gguf" or weight.matrix.has_g_idx:
        return None
    arrays = {name: np.asarray(_plain(array)) for name, array in weight.arrays.items() if array is not None}
    bits, scales = form.bits, arrays["scales"]
    if form.family == "compressed_tensors":
        zeros = unpack_stream(arrays["zeros"].T, bits, len(scales)).T if "zeros" in arrays else 2 ** (bits - 1)
    else:
        zeros = _zero_points(arrays["qzeros"], weight).T
        scales = scales.T
    size = weight.matrix.group_size
    scales = np.ascontiguousarray(scales, np.float32)
    return scales, (-scales * zeros).astype(np.float32), bits, 1 << 31 if size >= weight.in_features else size


def _zero_points(words: NDArray[Any], weight: QuantizedWeight) -> NDArray[np.int32]:
    """[groups, out]: AWQ's nibbles in its order; GPTQ's minus one in "v1", where whole words wrap but with 3 bits."""
    bits, params = weight.format.bits, weight.matrix.loader_params
    word = params.get("zero_word", 0)
    if bits != 3:
        words = words.view(np.uint32) + np.uint32(word)
    zeros = unpack_stream(words, bits, weight.out_features).astype(np.int32)
    if weight.format.family == "awq":
        return zeros.reshape(len(zeros), -1, 8)[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(zeros.shape)
    if bits == 3 and word:
        zeros = zeros + 1 & 7
    return zeros + params.get("zero_field", 0)


def _plain(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


_SMALL_FLOATS = {"mxfp4": 32, "nvfp4": 16}


def _small_floats(name: str, weight: QuantizedWeight, exact: Floats) -> MLXWeight:
    """Codes of 4-bit floats; the scales are the file's bytes."""
    size, blocks = _SMALL_FLOATS[name], _blocks(weight)
    scales = np.ascontiguousarray(blocks[..., : 64 // size if name == "nvfp4" else 1]).reshape(len(blocks), -1)
    if name == "nvfp4":  # GGUF's scale has no sign, and zero for NaN
        scales = np.where(scales & 127 == 127, 0, scales & 127)
        steps = np.asarray(mx.from_fp8(mx.array(scales), mx.float32))
    else:
        steps = np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    spread = np.repeat(steps, size, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitudes = np.where(spread == 0, 0, np.abs(exact) / spread)
    codes = CODES[np.rint(2 * magnitudes).clip(0, 12).astype(np.uint8)]
    values = E2M1[codes] * spread * np.where(np.signbit(exact), -1, 1)
    codes |= np.signbit(exact).astype(np.uint8) << 3
    arrays = {"weight": _words(codes, 4), "scales": mx.array(scales)}
    settings = {"group_size": size, "bits": 4, "mode": name}
    return MLXWeight(arrays, settings, error(values.astype(np.float32), exact))
