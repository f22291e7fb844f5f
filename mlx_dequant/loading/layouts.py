"""Layouts of integer codes, converted without rounding into the ones that kernels read.

Each function takes a module's tensors and settings. GPTQ: AutoGPTQ, GPTQModel's planar_packing.py. AWQ: AutoAWQ's
modules/linear. Marlin: IST-DASLab's kernel, as AutoGPTQ and AutoAWQ pack for it. compressed-tensors: its compressors.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..weights import AWQWeight, CompressedTensorsWeight, GPTQWeight, QuantizedWeight, check
from .bitfields import WIDER, Codes, pack_rows, pack_stream, unpack_stream, unpack_words
from .parts import FLOATS, Parts
from .settings import Settings

# The columns that the nibbles of AWQ's words hold.
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
# Planes of a planar code: their bits, lowest first.
_PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def gptq(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoGPTQ's layout. Symmetric layers may lack zero points."""
    zeros = parts.get("qzeros")
    if (zeros is None or not zeros.size) and not settings.symmetric:
        raise FormatError("qzeros: found none, expected them: the config says that the codes are not symmetric")
    return GPTQWeight(
        parts.array("qweight"),
        parts.array("scales"),
        zeros,
        parts.get("g_idx"),
        settings.group_size,
        settings.bits,
        settings.zero_points or "v1",
    )


def gptq_planar(parts: Parts, settings: Settings) -> QuantizedWeight:
    """GPTQModel's gptq_p: 32 codes lie in planes of 4, 2 and 1 bits. Zero points are stored as they are."""
    bits = settings.bits
    if bits not in _PLANES:
        return gptq(parts, settings)
    codes = _planes(parts.numpy("qweight").T, bits, "qweight").T
    zeros = _planes(parts.numpy("qzeros"), bits, "qzeros")
    wide = WIDER[bits]
    words, stored = mx.array(pack_rows(codes, wide)), mx.array(pack_stream(zeros, wide))
    return GPTQWeight(words, parts.array("scales"), stored, parts.get("g_idx"), settings.group_size, wide, "v2")


def _planes(words: NDArray[np.int32], bits: int, name: str) -> Codes:
    """Codes [n, 32*blocks] of words [n, bits*blocks]."""
    if words.shape[-1] % bits:
        raise FormatError(f"{name}: found {words.shape[-1]} words of 32 codes, expected a multiple of {bits}")
    words = np.ascontiguousarray(words).reshape(len(words), -1, bits)
    result, first, shift = np.zeros((*words.shape[:2], 32), np.uint8), 0, 0
    for width in _PLANES[bits]:
        result |= unpack_words(words[..., first : first + width], width, 32) << np.uint8(shift)
        first, shift = first + width, shift + width
    return result.reshape(len(words), -1)


def marlin(parts: Parts, settings: Settings) -> QuantizedWeight:
    """Marlin's 4-bit layout: tiles of 16x16 in the order of tensor cores; symmetric codes, permuted scales."""
    codes_name, scales_name = ("B", "s") if "B" in parts else ("qweight", "scales")
    words, scales = parts.numpy(codes_name), np.asarray(parts.array(scales_name))
    inputs, outputs = words.shape[0] * 16, words.shape[1] // 2
    if outputs % 64 or settings.bits != 4:
        raise FormatError(f"{codes_name}: found {outputs} outputs of {settings.bits} bits, expected 64*n of 4 bits")
    if scales.ndim != 2 or scales.shape[1] != outputs or inputs % max(len(scales), 1):
        raise FormatError(f"{scales_name}: found shape {scales.shape}, expected (groups, {outputs})")
    lane, word = np.arange(32)[:, None], np.arange(8)[None]
    row = 2 * (lane % 4) + np.array([0, 1, 8, 9])[word % 4]
    order = (16 * row + lane // 4 + 8 * (word // 4))[:, None] + 256 * np.arange(4)[None, :, None]
    order = order.reshape(-1, 8)[:, _AWQ_ORDER].reshape(-1)
    codes = unpack_stream(words, 4, words.shape[1] * 8).reshape(-1, 1024)[:, np.argsort(order)]
    codes = codes.reshape(inputs // 16, outputs // 16, 16, 16).swapaxes(1, 2).reshape(inputs, outputs)
    if len(scales) > 1:
        places = np.arange(64).reshape(8, 8).T.reshape(-1)
    else:
        places = (2 * np.arange(4)[:, None] + np.array([0, 1, 8, 9, 16, 17, 24, 25])).reshape(-1)
    scales = scales.reshape(-1, len(places))[:, np.argsort(places)].reshape(scales.shape)
    return GPTQWeight(mx.array(pack_rows(codes, 4)), mx.array(scales), None, None, inputs // len(scales), 4)


def awq(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemm" layout; "exllama", "exllamav2" and "ipex" are names of kernels for it."""
    words, scales, zeros = (parts.array(part) for part in ("qweight", "scales", "qzeros"))
    return AWQWeight(words, scales, zeros, settings.group_size, settings.bits)


def awq_marlin(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "marlin": Marlin's layout, without zero points."""
    if "qzeros" in parts:
        raise FormatError("qzeros: found zero points in Marlin's layout, expected none")
    return marlin(parts, settings)


def awq_gemv(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemv" layout: codes in plain order along the inputs, groups of an output in a row, padded."""
    words, scales, zeros = parts.numpy("qweight"), parts.array("scales"), parts.numpy("qzeros")
    outputs, inputs = words.shape[0], words.shape[1] * 8
    groups = _groups(inputs, settings, "scales", scales.shape[-1])
    if scales.ndim != 2 or scales.shape[0] != outputs or zeros.shape[0] != outputs or zeros.shape[1] * 8 < groups:
        raise FormatError(
            f"scales, qzeros: found {scales.shape}, {zeros.shape}, expected {outputs} rows of {groups} groups"
        )
    return _awq(
        unpack_stream(words, 4, inputs).T, scales[:, :groups].T, unpack_stream(zeros, 4, groups).T, settings.group_size
    )


def awq_gemv_fast(parts: Parts, settings: Settings) -> QuantizedWeight:
    """AutoAWQ's "gemv_fast" layout, which is llm-awq's: four outputs interleaved in int16 words, 64 inputs at a time.

    Zero points are stored as -scale*zero in float16. They are taken back only where that is exact.
    """
    words, scales = parts.numpy("qweight"), parts.array("scales")
    outputs, inputs = words.shape[0] * 4, words.shape[1]
    if inputs % 64:
        raise FormatError(f"qweight: found {inputs} inputs, expected a multiple of 64")
    groups = _groups(inputs, settings, "scales", scales.shape[0])
    fields = words.view(np.uint16)[..., None] >> np.array([0, 4, 8, 12], np.uint16) & np.uint16(15)
    # From [out/4, in/64, 64 places of four outputs each] to [out, in/32, 32 places].
    places = (
        fields.astype(np.uint8).reshape(outputs // 4, inputs // 64, 4, 64).swapaxes(1, 2).reshape(outputs, -1, 4, 2, 4)
    )
    pairs = places.swapaxes(3, 4).reshape(outputs, -1, 4, 4, 2)
    codes = pairs.swapaxes(2, 3).reshape(outputs, inputs)
    name = "qzeros" if "qzeros" in parts else "scaled_zeros"
    shifts = np.asarray(parts.array(name).astype(mx.float32))[:groups]
    scales = scales[:groups]
    factor = np.asarray(scales.astype(mx.float32))
    if shifts.shape != (groups, outputs) or factor.shape != shifts.shape:
        raise FormatError(f"scales, {name}: found {factor.shape}, {shifts.shape}, expected ({groups}, {outputs})")
    zeros = np.rint(np.divide(-shifts, factor, out=np.zeros_like(factor), where=factor != 0))
    rounded = mx.array(-(factor * zeros)).astype(scales.dtype).astype(mx.float32)
    if zeros.min(initial=0) < 0 or zeros.max(initial=0) > 15 or not np.array_equal(np.asarray(rounded), shifts):
        raise FormatError(f"{name}: found values that are not -scale times a zero point of 0 to 15")
    return _awq(codes.T, scales, zeros.astype(np.uint8), settings.group_size)


def _groups(inputs: int, settings: Settings, name: str, found: int) -> int:
    groups = -(-inputs // settings.group_size) if settings.group_size > 0 else 1
    if found < groups or settings.bits != 4:
        raise FormatError(f"{name}: found {found} groups, {settings.bits} bits, expected at least {groups}, 4 bits")
    return groups


def _awq(codes: Codes, scales: mx.array, zeros: Codes, group_size: int) -> QuantizedWeight:
    """From codes [in, out] and zero points [groups, out]."""
    if codes.shape[1] % 8:
        raise FormatError(f"qweight: found {codes.shape[1]} outputs, expected a multiple of 8")
    packed = [
        mx.array(
            pack_stream(np.ascontiguousarray(each).reshape(len(each), -1, 8)[..., _AWQ_ORDER].reshape(each.shape), 4)
        )
        for each in (codes, zeros)
    ]
    return AWQWeight(packed[0], scales, packed[1], group_size)


def pack_quantized(parts: Parts, settings: Settings) -> QuantizedWeight:
    """compressed-tensors' pack-quantized, 1 to 8 bits, as a dense stream or with 32 // bits codes a word."""
    bits, wide = settings.bits, WIDER.get(settings.bits)
    if wide is None:
        raise FormatError(f"bits: found {bits}, expected 1 to 8")
    packed, scales, shape = parts.array("weight_packed"), parts.array("weight_scale"), parts.array("weight_shape")
    if shape.size != 2 or packed.ndim != 2:
        raise FormatError(f"weight_shape: found {shape.tolist()}, expected (out, in)")
    outputs, inputs = check.lengths("weight_shape", shape)
    if scales.ndim == 1:
        scales = scales[:, None]
    zeros = parts.get("weight_zero_point")
    unpacked = zeros is not None and zeros.dtype == mx.int8
    old = 32 % bits != 0 and _straddles(packed, bits, inputs) is False
    if old or wide != bits or unpacked:
        offset = (1 << wide - 1) - (1 << bits - 1)
        unpack = unpack_words if old else unpack_stream
        if old or wide != bits:
            _fits("weight_packed", packed, old, bits, (outputs, inputs))
            packed = mx.array(pack_stream(unpack(np.asarray(packed), bits, inputs) + np.uint8(offset), wide))
        if zeros is not None and unpacked:
            stored = np.asarray(zeros).astype(np.int16).reshape(outputs, -1) + (1 << wide - 1)
            zeros = mx.array(pack_rows(stored, wide))
        elif zeros is not None:
            _fits("weight_zero_point", zeros.T, old, bits, (zeros.shape[-1], outputs))
            stored = unpack(np.ascontiguousarray(np.asarray(zeros).T), bits, outputs) + np.uint8(offset)
            zeros = mx.array(np.ascontiguousarray(pack_stream(stored, wide).T))
    return CompressedTensorsWeight(
        packed, scales, (outputs, inputs), zeros, parts.get("weight_g_idx"), wide, settings.group_size
    )


def _fits(name: str, words: mx.array, old: bool, bits: int, shape: tuple[int, int]) -> None:
    rows, count = shape
    width = -(-count // (32 // bits)) if old else -(-count * bits // 32)
    if tuple(words.shape) != (rows, width):
        raise FormatError(
            f"{name}: found {words.shape[-1]} words a row, expected {width} for {count} codes of {bits} bits"
        )


def _straddles(packed: mx.array, bits: int, inputs: int) -> bool:
    """Whether codes form a dense stream (compressed-tensors 0.18 on), by the words of a row. Where both layouts have as
    many, the older one leaves the highest bits of each word zero."""
    stream, words = -(-inputs * bits // 32), -(-inputs // (32 // bits))
    if stream != words or not packed.size:
        return packed.shape[1] != words
    return bool(np.any(np.asarray(packed).view(np.uint32) >> np.uint32(32 // bits * bits)))


def int_quantized(parts: Parts, settings: Settings) -> QuantizedWeight:
    """compressed-tensors' int-quantized: int8 codes, not packed, with scales by tensor, output, group or block."""
    parts.of_type("weight_scale", *FLOATS)
    codes, scales = np.asarray(parts.array("weight")), parts.array("weight_scale")
    if codes.ndim != 2:
        raise FormatError(f"weight: found shape {codes.shape}, expected (out, in)")
    outputs, inputs = codes.shape
    scales, size = _by_output(scales, outputs, inputs, settings)
    zeros = parts.get("weight_zero_point")
    packed = None
    if zeros is not None:
        rows = np.asarray(_by_output(zeros, outputs, inputs, settings)[0]).astype(np.int16)
        packed = mx.array(pack_rows(rows + 128, 8))
    words = mx.array(pack_stream(codes.view(np.uint8) ^ np.uint8(128), 8))
    return CompressedTensorsWeight(words, scales, (outputs, inputs), packed, None, 8, size)


def _by_output(scales: mx.array, outputs: int, inputs: int, settings: Settings) -> tuple[mx.array, int]:
    """Scales [out, groups], and the inputs of a group."""
    if scales.size == 1:
        return mx.broadcast_to(scales.reshape(1, 1), (outputs, 1)), -1
    if scales.shape in ((outputs,), (outputs, 1)):
        return scales.reshape(outputs, 1), -1
    height, width = block_of(scales.shape, outputs, inputs, settings)
    return mx.repeat(scales, height, axis=0)[:outputs], width


def block_of(shape: Any, outputs: int, inputs: int, settings: Settings) -> tuple[int, int]:
    """Rows and columns that share each of the scales of a shape.

    Raises:
        FormatError: no block that the settings allow gives that shape.
    """
    size = settings.group_size if settings.group_size > 0 else 0
    blocks = [settings.block] if settings.block else [(1, size)] if size else []
    blocks += [(128, 128)] if not settings.block else []
    if len(shape) == 2 and shape[0] == outputs and shape[1] and inputs % shape[1] == 0 and not blocks[:-1]:
        blocks.append((1, inputs // shape[1]))
    for height, width in blocks:
        if tuple(shape) == (-(-outputs // height), -(-inputs // width)):
            return height, width
    expected = " or ".join(f"blocks of {height}x{width}" for height, width in blocks)
    raise FormatError(
        f"weight_scale: found shape {tuple(shape)} for {outputs}x{inputs} weights, expected 1, {outputs} or {expected}"
    )
