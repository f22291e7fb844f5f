"""The layout pictures of the group formats: words written by hand, weights by the formula."""

import random

import mlx.core as mx
import numpy as np
import pytest
from layout import signed, stream
from support import assert_same, bits

import mlx_dequant as mxd

SCALES = (0.5, -0.25, 0.0078125, 3.0)


def some(count, below, seed):
    return [random.Random(seed + i).randrange(below) for i in range(count)]


def test_awq_picture(backend):
    """4 inputs in 2 groups, 16 outputs: column 8*c + picture[n] in nibble n of word c."""
    picture = (0, 2, 4, 6, 1, 3, 5, 7)  # from bits 3..0 up
    q = [some(16, 16, 100 * i) for i in range(4)]
    z = [some(16, 16, 1000 + 100 * g) for g in range(2)]

    def packed(line):
        return [signed(sum(line[8 * c + picture[n]] << 4 * n for n in range(8))) for c in range(2)]

    scales = [[SCALES[(g + o) % 4] for o in range(16)] for g in range(2)]
    expected = [[(q[i][o] - z[i // 2][o]) * scales[i // 2][o] for o in range(16)] for i in range(4)]
    weight = mxd.AWQWeight(
        np.array([packed(line) for line in q], np.int32),
        np.array(scales, np.float16),
        np.array([packed(line) for line in z], np.int32),
        group_size=2,
    )
    assert weight.shape == (4, 16)
    assert_same(weight.dequantize(mx.float32), bits(np.array(expected, np.float32)), "awq4")


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_gptq_picture(width, backend):
    """64 inputs in 2 groups, 32 outputs: codes in a stream down each column, zero points along each row."""
    q = [some(64, 1 << width, 100 * o) for o in range(32)]
    z = [some(32, 1 << width, 9000 + 100 * g) for g in range(2)]
    scales = [[SCALES[(g + o) % 4] for o in range(32)] for g in range(2)]
    expected = [[(q[o][i] - z[i // 32][o]) * scales[i // 32][o] for o in range(32)] for i in range(64)]
    weight = mxd.GPTQWeight(
        np.array([stream(column, width) for column in q], np.int32).T,
        np.array(scales, np.float16),
        np.array([stream(line, width) for line in z], np.int32),
        group_size=32,
        bits=width,
        zero_points="v2",
    )
    assert weight.shape == (64, 32)
    assert_same(weight.dequantize(mx.float32), bits(np.array(expected, np.float32)), f"gptq{width}")


def test_gptq4_word(backend):
    """The picture of a word, digit by digit: input 7 is the highest nibble."""
    qweight = np.full((1, 8), 0x76543210, np.int32)
    weight = mxd.GPTQWeight(qweight, np.ones((1, 8), np.float32), np.zeros((1, 1), np.int32), None, 8, 4, "v2")
    assert weight.dequantize()[:, 3].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_compressed_tensors_picture(width, symmetric, backend):
    """5 outputs, 21 inputs in groups of 8: streams that end inside a word; codes stored plus 2^(bits - 1)."""
    offset = 1 << width - 1
    q = [[code - offset for code in some(21, 2 * offset, 100 * o)] for o in range(5)]
    z = [[0 if symmetric else code - offset for code in some(5, 2 * offset, 9000 + g)] for g in range(3)]
    scales = [[SCALES[(g + o) % 4] for g in range(3)] for o in range(5)]
    expected = [[(q[o][i] - z[i // 8][o]) * scales[o][i // 8] for i in range(21)] for o in range(5)]
    zeros = [stream([zero + offset for zero in line], width) for line in z]
    weight = mxd.CompressedTensorsWeight(
        np.array([stream([code + offset for code in line], width) for line in q], np.int32),
        np.array(scales, np.float16),
        (5, 21),
        None if symmetric else np.array(zeros, np.int32).T,
        bits=width,
        group_size=8,
    )
    assert weight.shape == (5, 21)
    assert_same(weight.dequantize(mx.float32), bits(np.array(expected, np.float32)), f"ct{width}")


def test_every_group_format_has_a_picture():
    groups = {name for name, form in mxd.formats().items() if form.family != "gguf"}
    assert groups == {"awq4", *(f"{family}{width}" for family in ("gptq", "ct") for width in (2, 3, 4, 8))}
