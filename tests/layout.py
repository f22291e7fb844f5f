"""Blocks and words written field by field, as the pictures in the shader files say."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np


class Block:
    """A GGUF block. Every bit is written once, so a picture with a gap or an overlap fails."""

    def __init__(self, size: int, seed: str):
        self.size = size
        self.value = 0
        self.written = 0
        self.random = random.Random(seed)

    def put(self, byte: int, value: int, width: int = 8, bit: int = 0) -> None:
        """`value` in `width` bits, from bit `bit` of `byte` on, lowest first."""
        assert 0 <= value < 1 << width, f"{value} needs more than {width} bits"
        at = 8 * byte + bit
        field = (1 << width) - 1 << at
        assert not self.written & field, f"byte {byte} bit {bit}: written twice"
        self.written |= field
        self.value |= value << at

    def half(self, byte: int, value: float) -> float:
        """`value` as a float16, which holds it exactly."""
        self.put(byte, int.from_bytes(struct.pack("<e", value), "little"), 16)
        return value

    def some(self, count: int, below: int) -> list[int]:
        """Field values in no order."""
        return [self.random.randrange(below) for _ in range(count)]

    def bytes(self) -> np.ndarray:
        assert self.written == (1 << 8 * self.size) - 1, "a part of the block was not written"
        return np.frombuffer(self.value.to_bytes(self.size, "little"), np.uint8)


def stream(codes: Sequence[int], bits: int) -> list[int]:
    """int32 words that hold `codes` one after the other, lowest bits first; the last word is filled with 0."""
    value = sum(code << bits * i for i, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    return [signed(value >> 32 * i & 0xFFFFFFFF) for i in range(count)]


def signed(word: int) -> int:
    """The int32 with the bits of an unsigned word."""
    return word - (1 << 32) if word >> 31 else word


def along(axis: int, codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 words of a matrix of codes: a stream down each column (axis 0) or along each row (axis 1)."""
    lines = codes.T if axis == 0 else codes
    words = np.array([stream([int(code) for code in line], bits) for line in lines], np.int32)
    return np.ascontiguousarray(words.T if axis == 0 else words)
