"""Codes packed into 32-bit words, lowest bits first, as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Words = NDArray[np.int32]

# The bits in which a kernel reads codes: codes of other numbers of bits are stored in wider ones.
WIDER = {1: 2, 2: 2, 3: 3, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}


def unpack_stream(words: NDArray[Any], bits: int, count: int) -> Codes:
    """The first `count` codes [..., count] of words [..., n] that hold a dense stream of bits."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets[..., :count]
    if bits in (1, 2, 4):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        fields = octets[..., None] >> shifts & np.uint8((1 << bits) - 1)
        return fields.reshape(*octets.shape[:-1], octets.shape[-1] * len(shifts))[..., :count]
    fields = np.unpackbits(octets, axis=-1, bitorder="little")[..., : count * bits].reshape(
        *octets.shape[:-1], count, bits
    )
    return np.packbits(fields, axis=-1, bitorder="little")[..., 0]


def unpack_words(words: NDArray[Any], bits: int, count: int) -> Codes:
    """The first `count` codes [..., count] of words [..., n] that hold 32 // bits codes each; no code straddles."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    fields = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return fields.astype(np.uint8).reshape(*words.shape[:-1], words.shape[-1] * len(shifts))[..., :count]


def pack_octets(codes: NDArray[Any], bits: int) -> Codes:
    """Bytes [..., ceil(count*bits/8)] of codes [..., count] as a dense stream of bits."""
    codes = np.asarray(codes, np.uint8)
    if bits == 8:
        return codes
    fields = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    fields = fields.reshape(*codes.shape[:-1], codes.shape[-1] * bits)
    return np.packbits(fields, axis=-1, bitorder="little")


def pack_stream(codes: NDArray[Any], bits: int) -> Words:
    """int32 words [..., ceil(count*bits/32)] of codes [..., count] as a dense stream of bits."""
    octets = pack_octets(codes, bits)
    padding = [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 4)]
    return np.ascontiguousarray(np.pad(octets, padding)).view(np.int32)


def pack_rows(codes: NDArray[Any], bits: int) -> Words:
    """The same along the first axis: int32 [ceil(count*bits/32), n] of codes [count, n]."""
    return np.ascontiguousarray(pack_stream(np.asarray(codes).T, bits).T)
