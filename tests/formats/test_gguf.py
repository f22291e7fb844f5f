"""The layout pictures of the GGUF formats without a grid: a block written by hand for each."""

import mlx.core as mx
import numpy as np
import pytest
from formats.test_iq import LAYOUTS as IQ_LAYOUTS
from layout import Block
from support import assert_same, bits

import mlx_dequant as mxd


def low_and_high(block, byte, codes):
    """Two weights a byte: the first half of `codes` in the low nibbles, the second in the high ones."""
    half = len(codes) // 2
    for i in range(half):
        block.put(byte + i, codes[i] & 15, 4)
        block.put(byte + i, codes[half + i] & 15, 4, bit=4)


def f32(block):
    block.put(0, 0xBFC00000, 32)
    return [-1.5]


def f16(block):
    return [block.half(0, -0.0625)]


def bf16(block):
    block.put(0, 0xC0A0, 16)
    return [-5.0]


def q4_0(block):
    d, q = block.half(0, 0.75), block.some(32, 16)
    low_and_high(block, 2, q)
    return [d * (x - 8) for x in q]


def q4_1(block):
    d, m, q = block.half(0, 0.75), block.half(2, -3.5), block.some(32, 16)
    low_and_high(block, 4, q)
    return [d * x + m for x in q]


def q5_0(block):
    d, q = block.half(0, -0.75), block.some(32, 32)
    for i in range(32):
        block.put(2, q[i] >> 4, 1, bit=i)
    low_and_high(block, 6, q)
    return [d * (x - 16) for x in q]


def q5_1(block):
    d, m, q = block.half(0, 0.75), block.half(2, 20), block.some(32, 32)
    for i in range(32):
        block.put(4, q[i] >> 4, 1, bit=i)
    low_and_high(block, 8, q)
    return [d * x + m for x in q]


def q8_0(block):
    d, q = block.half(0, 0.125), [x - 128 for x in block.some(32, 256)]
    for i in range(32):
        block.put(2 + i, q[i] & 255)
    return [d * x for x in q]


def pairs_of_bits(block, byte, codes):
    """Two bits a weight: 32 bytes for each 128 weights, weight 32*k + i at bits 2k of byte i."""
    for at, code in enumerate(codes):
        block.put(byte + at // 128 * 32 + at % 32, code & 3, 2, bit=2 * (at % 128 // 32))


def q2_k(block):
    s, m, q = block.some(16, 16), block.some(16, 16), block.some(256, 4)
    for j in range(16):
        block.put(j, s[j], 4)
        block.put(j, m[j], 4, bit=4)
    pairs_of_bits(block, 16, q)
    d, dmin = block.half(80, 0.5), block.half(82, 0.25)
    return [d * s[i // 16] * q[i] - dmin * m[i // 16] for i in range(256)]


def q3_k(block):
    s, q = block.some(16, 64), block.some(256, 8)
    for i in range(256):
        block.put(i % 32, q[i] >> 2, 1, bit=i // 32)
    pairs_of_bits(block, 32, q)
    for j in range(16):
        block.put(96 + j % 8, s[j] & 15, 4, bit=4 * (j // 8))
        block.put(104 + j % 4, s[j] >> 4, 2, bit=2 * (j // 4))
    d = block.half(108, 0.5)
    return [d * (s[i // 16] - 32) * (q[i] - 4) for i in range(256)]


def k_scales(block, byte):
    s, m = block.some(8, 64), block.some(8, 64)
    for j in range(4):
        block.put(byte + j, s[j], 6)
        block.put(byte + j, s[4 + j] >> 4, 2, bit=6)
        block.put(byte + 4 + j, m[j], 6)
        block.put(byte + 4 + j, m[4 + j] >> 4, 2, bit=6)
        block.put(byte + 8 + j, s[4 + j] & 15, 4)
        block.put(byte + 8 + j, m[4 + j] & 15, 4, bit=4)
    return s, m


def q4_k(block):
    d, dmin, q = block.half(0, 0.5), block.half(2, 0.25), block.some(256, 16)
    s, m = k_scales(block, 4)
    for k in range(4):
        low_and_high(block, 16 + 32 * k, q[64 * k : 64 * k + 64])
    return [d * s[i // 32] * q[i] - dmin * m[i // 32] for i in range(256)]


def q5_k(block):
    d, dmin, q = block.half(0, 0.5), block.half(2, 0.25), block.some(256, 32)
    s, m = k_scales(block, 4)
    for i in range(256):
        block.put(16 + i % 32, q[i] >> 4, 1, bit=i // 32)
    for k in range(4):
        low_and_high(block, 48 + 32 * k, q[64 * k : 64 * k + 64])
    return [d * s[i // 32] * q[i] - dmin * m[i // 32] for i in range(256)]


def q6_k(block):
    s, q = [x - 128 for x in block.some(16, 256)], block.some(256, 64)
    for at in range(256):
        half, n, k = at // 128, at % 128 // 64, at % 128 // 32
        block.put(64 * half + at % 64, q[at] & 15, 4, bit=4 * n)
        block.put(128 + 32 * half + at % 32, q[at] >> 4, 2, bit=2 * k)
    for j in range(16):
        block.put(192 + j, s[j] & 255)
    d = block.half(208, 0.5)
    return [d * s[i // 16] * (q[i] - 32) for i in range(256)]


def tq1_0(block):
    digits = block.some(256, 3)
    for byte, first, step, count in ((0, 0, 32, 5), (32, 160, 16, 5), (48, 240, 4, 4)):
        for i in range(step):
            number = sum(digits[first + step * k + i] * 3 ** (4 - k) for k in range(count))
            # The byte is number / 3^5 of 256, rounded up so that no digit is lost.
            block.put(byte + i, -(-number * 256 // 243))
    d = block.half(52, 0.5)
    return [d * (x - 1) for x in digits]


def tq2_0(block):
    q = block.some(256, 4)
    pairs_of_bits(block, 0, q)
    d = block.half(64, 0.5)
    return [d * (x - 1) for x in q]


E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)


def mxfp4(block):
    q = block.some(32, 16)
    block.put(0, 130)
    low_and_high(block, 1, q)
    return [2.0 ** (130 - 127) * E2M1[x] for x in q]


def nvfp4(block):
    q = block.some(64, 16)
    scales = {0x05: 5 / 8 * 2**-6, 0x38: 1.0, 0x4D: (1 + 5 / 8) * 4, 0x7F: 0.0}
    for j, byte in enumerate(scales):
        block.put(j, byte)
        low_and_high(block, 4 + 8 * j, q[16 * j : 16 * j + 16])
    s = list(scales.values())
    return [s[i // 16] * E2M1[q[i]] for i in range(64)]


def q1_0(block):
    d, q = block.half(0, 0.75), block.some(128, 2)
    for i in range(128):
        block.put(2 + i // 8, q[i], 1, bit=i % 8)
    return [d if x else -d for x in q]


def q2_0(block):
    d, q = block.half(0, 0.75), block.some(64, 4)
    for i in range(64):
        block.put(2 + i // 4, q[i], 2, bit=2 * (i % 4))
    return [d * (x - 1) for x in q]


LEGACY = (f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0)
K = (q2_k, q3_k, q4_k, q5_k, q6_k)
OTHERS = (tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0)


@pytest.mark.parametrize("layout", LEGACY + K + OTHERS, ids=lambda layout: layout.__name__)
def test_picture(layout, backend):
    form = mxd.formats()[layout.__name__]
    block = Block(form.bytes, form.name)
    expected = np.array(layout(block), np.float32)
    assert len(expected) == form.weights
    assert_same(mxd.dequantize_gguf(block.bytes(), form.name, dtype=mx.float32), bits(expected), form.name)


def test_every_type_has_a_picture():
    drawn = {layout.__name__ for layout in LEGACY + K + OTHERS} | {layout.__name__ for layout in IQ_LAYOUTS}
    assert drawn == {name for name, form in mxd.formats().items() if form.family == "gguf"}
