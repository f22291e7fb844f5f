"""The layout pictures of the IQ formats: a block written by hand for each. The grids are gguf-py's."""

from math import prod

import gguf
import mlx.core as mx
import numpy as np
import pytest
from layout import Block
from support import assert_same, bits

import mlx_dequant as mxd


def grid_of(name):
    """[entries, 4 or 8] values of a grid."""
    kind = getattr(gguf.quants, name.upper())
    kind.init_grid()
    return kind.grid.reshape(-1, kind.grid.shape[-1]).tolist()


def signs(block, groups):
    """Eight signs a group, each 1 or -1."""
    return [[1 - 2 * x for x in block.some(8, 2)] for _ in range(groups)]


def even_signs(block, groups):
    """Eight signs a group, the eighth such that their product is 1."""
    seven = [[1 - 2 * x for x in block.some(7, 2)] for _ in range(groups)]
    return [[*some, prod(some)] for some in seven]


def as_bits(group, count):
    """The first `count` signs as a number, bit i set where sign i is -1."""
    return sum((sign < 0) << i for i, sign in enumerate(group[:count]))


def iq2_xxs(block):
    d, index, sign, s = block.half(0, 0.5), block.some(32, 256), even_signs(block, 32), block.some(8, 16)
    for k in range(32):
        block.put(2 + k // 4 * 8 + k % 4, index[k])
        block.put(6 + k // 4 * 8, as_bits(sign[k], 7), 7, bit=7 * (k % 4))
    for j in range(8):
        block.put(6 + 8 * j, s[j], 4, bit=28)
    grid = grid_of("iq2_xxs")
    return [d * (s[k // 4] + 0.5) / 4 * grid[index[k]][i] * sign[k][i] for k in range(32) for i in range(8)]


def iq2_xs(block):
    d, index, sign, s = block.half(0, 0.5), block.some(32, 512), even_signs(block, 32), block.some(16, 16)
    for k in range(32):
        block.put(2 + 2 * k, index[k], 9)
        block.put(2 + 2 * k, as_bits(sign[k], 7), 7, bit=9)
    for j in range(16):
        block.put(66 + j // 2, s[j], 4, bit=4 * (j % 2))
    grid = grid_of("iq2_xs")
    return [d * (s[k // 2] + 0.5) / 4 * grid[index[k]][i] * sign[k][i] for k in range(32) for i in range(8)]


def iq2_s(block):
    d, index, sign, s = block.half(0, 0.5), block.some(32, 1024), signs(block, 32), block.some(16, 16)
    for k in range(32):
        block.put(2 + k, index[k] & 255)
        block.put(34 + k, as_bits(sign[k], 8))
        block.put(66 + k // 4, index[k] >> 8, 2, bit=2 * (k % 4))
    for j in range(16):
        block.put(74 + j // 2, s[j], 4, bit=4 * (j % 2))
    grid = grid_of("iq2_s")
    return [d * (s[k // 2] + 0.5) / 4 * grid[index[k]][i] * sign[k][i] for k in range(32) for i in range(8)]


def iq3_xxs(block):
    d, index, sign, s = block.half(0, 0.5), block.some(64, 256), even_signs(block, 32), block.some(8, 16)
    for j in range(64):
        block.put(2 + j, index[j])
    for k in range(32):
        block.put(66 + k // 4 * 4, as_bits(sign[k], 7), 7, bit=7 * (k % 4))
    for j in range(8):
        block.put(66 + 4 * j, s[j], 4, bit=28)
    grid = grid_of("iq3_xxs")
    values = [grid[j][i] for j in index for i in range(4)]
    return [d * (s[i // 32] + 0.5) / 2 * values[i] * sign[i // 8][i % 8] for i in range(256)]


def iq3_s(block):
    d, index, sign, s = block.half(0, 0.5), block.some(64, 512), signs(block, 32), block.some(8, 16)
    for j in range(64):
        block.put(2 + j, index[j] & 255)
        block.put(66 + j // 8, index[j] >> 8, 1, bit=j % 8)
    for k in range(32):
        block.put(74 + k, as_bits(sign[k], 8))
    for j in range(8):
        block.put(106 + j // 2, s[j], 4, bit=4 * (j % 2))
    grid = grid_of("iq3_s")
    values = [grid[j][i] for j in index for i in range(4)]
    return [d * (2 * s[i // 32] + 1) * values[i] * sign[i // 8][i % 8] for i in range(256)]


def iq1_s(block):
    d, index, s, minus = block.half(0, 0.5), block.some(32, 2048), block.some(8, 8), block.some(8, 2)
    for k in range(32):
        block.put(2 + k, index[k] & 255)
        block.put(34 + k // 4 * 2, index[k] >> 8, 3, bit=3 * (k % 4))
    for j in range(8):
        block.put(34 + 2 * j, s[j], 3, bit=12)
        block.put(34 + 2 * j, minus[j], 1, bit=15)
    grid = grid_of("iq1_s")
    delta = [-0.125 if x else 0.125 for x in minus]
    return [d * (2 * s[k // 4] + 1) * (grid[index[k]][i] + delta[k // 4]) for k in range(32) for i in range(8)]


def iq1_m(block):
    index, s, minus = block.some(32, 2048), block.some(16, 8), block.some(32, 2)
    for k in range(32):
        block.put(k, index[k] & 255)
        block.put(32 + k // 2, index[k] >> 8, 3, bit=4 * (k % 2))
        block.put(32 + k // 2, minus[k], 1, bit=4 * (k % 2) + 3)
    for j in range(16):
        block.put(48 + j // 4 * 2, s[j], 3, bit=3 * (j % 4))
    d, nibbles = 1.0546875, (0x8, 0x3, 0xC, 0x3)  # the float16 0x3c38, lowest first
    for j in range(4):
        block.put(48 + 2 * j, nibbles[j], 4, bit=12)
    grid = grid_of("iq1_m")
    delta = [-0.125 if x else 0.125 for x in minus]
    return [d * (2 * s[k // 2] + 1) * (grid[index[k]][i] + delta[k]) for k in range(32) for i in range(8)]


IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(block):
    d, q = block.half(0, 0.5), block.some(32, 16)
    for i in range(16):
        block.put(2 + i, q[i], 4)
        block.put(2 + i, q[16 + i], 4, bit=4)
    return [d * IQ4[x] for x in q]


def iq4_xs(block):
    d, q, s = block.half(0, 0.5), block.some(256, 16), block.some(8, 64)
    for k in range(8):
        block.put(2, s[k] >> 4, 2, bit=2 * k)
        block.put(4 + k // 2, s[k] & 15, 4, bit=4 * (k % 2))
        for i in range(16):
            block.put(8 + 16 * k + i, q[32 * k + i], 4)
            block.put(8 + 16 * k + i, q[32 * k + 16 + i], 4, bit=4)
    return [d * (s[i // 32] - 32) * IQ4[q[i]] for i in range(256)]


LAYOUTS = (iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s, iq4_nl, iq4_xs)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_picture(layout, backend):
    form = mxd.formats()[layout.__name__]
    block = Block(form.bytes, form.name)
    expected = np.array(layout(block), np.float32)
    assert len(expected) == form.weights
    assert_same(mxd.dequantize_gguf(block.bytes(), form.name, dtype=mx.float32), bits(expected), form.name)
