"""What the host computes between products: as the formulas say, for any strides, and left to MLX otherwise."""

import os
import subprocess
from pathlib import Path

import emulator
import mlx.core as mx
import numpy as np
import pytest
from support import in_four_threads

from mlx_dequant import kernel_source
from mlx_dequant.backends.host import compiler, layers, lazy, threads

rng = np.random.default_rng(0)
ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0, 2)]  # of axes in memory


@pytest.fixture(autouse=True)
def primitive(host):
    if lazy.primitive() is None:
        pytest.skip("the log says why: MLX_DEQUANT_LOG=warning")


def normal(*shape, order=None):
    order = order or range(len(shape))
    x = mx.array(rng.standard_normal([shape[axis] for axis in order]), mx.float32)
    return x.transpose(*np.argsort(order).tolist())


def double(*arrays):
    return (np.array(array, np.float64) for array in arrays)


def assert_close(ours, expected, error=2e-6):
    assert ours is not None and ours.dtype == mx.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(np.array(ours, np.float64), expected, rtol=error, atol=error)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("length", [1, 37, 256])
def test_rms_norm(length, order):
    x, weight = normal(2, 3, 5, length, order=order), normal(2 * length)[::2]
    wide, factor = double(x, weight)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * factor
    assert_close(layers.rms_norm(x, weight, 1e-5), expected)
    assert_close(layers.rms_norm(x[1, 0, 2], weight, 1e-5), expected[1, 0, 2])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_swiglu(order):
    gate, x = normal(2, 3, 5, 21, order=order) * 40, normal(2, 3, 5, 21)
    wide, factor = double(gate, x)
    assert_close(layers.swiglu(gate, x), wide / (1 + np.exp(-wide)) * factor)


@pytest.mark.parametrize("offset", [0, 7, 30000, (5, 900)], ids=str)
@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("freqs", [None, mx.array(np.linspace(1, 9000, 12), mx.float32)], ids=["base", "freqs"])
def test_rope_turns_by_the_angles_of_mlx(traditional, freqs, offset):
    """MLX rounds angles to float32, at position 30000 by 1e-3: ours are the same ones."""
    options = {"traditional": traditional, "base": 5e4 if freqs is None else None, "scale": 0.5, "freqs": freqs}
    offset = mx.array(offset) if isinstance(offset, tuple) else offset
    for x in (normal(2, 3, 6, 40, order=order) for order in ORDERS):
        expected = mx.fast.rope(x, 24, offset=offset, **options)
        assert_close(layers.rope(x, 24, offset=offset, **options), np.array(expected))


def attention(q, k, v, scale, mask):
    q, k, v = double(q, k, v)
    k, v = (np.repeat(each, q.shape[1] // k.shape[1], axis=1) for each in (k, v))
    scores = q @ k.swapaxes(2, 3) * scale + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("sizes", [(9, 3, 1, 77, 64, 64), (6, 2, 100, 100, 64, 48), (2, 2, 33, 64, 83, 17)], ids=str)
def test_attention(sizes):
    heads, shared, queries, keys, depth, width = sizes
    q, v = normal(2, heads, queries, depth, order=ORDERS[1]), normal(2, shared, keys, width)
    order = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    seen = rng.random((2, 1, queries, keys)) < 0.3
    seen[..., -1] = True
    added = np.where(np.arange(keys) < keys // 2, -np.inf, rng.standard_normal((heads, queries, keys)))
    for k in (normal(2, shared, keys + 5, depth)[:, :, :keys], normal(2, shared, keys, depth, order=ORDERS[2])):
        for given, mask in (
            (None, 0),
            ("causal", np.where(order, 0, -np.inf)),
            (mx.array(seen), np.where(seen, 0, -np.inf)),
            (mx.array(added, mx.float32), added),
        ):
            assert_close(layers.attention(q, k, v, scale=0.3, mask=given), attention(q, k, v, 0.3, mask), 1e-5)


def test_attention_to_nothing_and_to_nan():
    """A query whose keys are all masked by booleans gets their mean, as MLX's; NaN stays in its row."""
    q, k, v = (normal(1, 2, 70, 32) for _ in range(3))
    nothing = layers.attention(q, k, v, scale=0.3, mask=mx.zeros((70, 70), mx.bool_))
    assert_close(nothing, np.broadcast_to(np.array(v).mean(2, keepdims=True), v.shape), 1e-5)
    q[0, 1, 5, 3] = mx.nan
    found = np.isnan(np.array(layers.attention(q, k, v, scale=0.3))).any(-1)
    assert np.argwhere(found).tolist() == [[0, 1, 5]]


def test_what_is_left_to_mlx():
    q, one, half = normal(1, 4, 5, 16), mx.ones(16), normal(1, 4, 5, 16).astype(mx.float16)
    turn = {"traditional": False, "scale": 1.0, "offset": 0}
    assert layers.rms_norm(half, one, 1e-5) is layers.rms_norm(q, None, 1e-5) is None
    assert layers.rms_norm(q, mx.ones(15), 1e-5) is layers.rms_norm(mx.array(1.0), one, 1e-5) is None
    assert layers.rms_norm(mx.zeros((0, 16)), one, 1e-5) is layers.rms_norm(q[None], one, 1e-5) is None
    assert layers.swiglu(q, one) is layers.swiglu(np.ones(3), one) is None
    assert layers.rope(q[0], 16, base=1e4, **turn) is layers.rope(q, 16, base=None, **turn) is None
    assert layers.rope(q, 0, base=1e4, **turn) is layers.rope(q, 18, base=1e4, **turn) is None
    assert layers.rope(q, 7, base=1e4, **turn) is layers.rope(q, 8, base=1e4, freqs=mx.ones(4), **turn) is None
    assert layers.rope(q, 8, base=1e4, **turn | {"offset": mx.array([1, 2])}) is None
    assert layers.attention(q, q[:, :3], q[:, :3], scale=1) is layers.attention(q, q, q[..., :3, :], scale=1) is None
    assert layers.attention(q, q[:, :, :3], q[:, :, :3], scale=1, mask="causal") is None
    assert layers.attention(q, q, q, scale=1, sinks=mx.ones(4)) is None
    assert layers.attention(q, q, q, scale=1, mask="all") is None
    assert layers.attention(q, q, q, scale=1, mask=mx.ones((5, 4), mx.bool_)) is None
    with lazy.at_once():
        assert layers.rms_norm(q, one, 1e-5) is None

    def traced(x):
        assert layers.rms_norm(x, one, 1e-5) is layers.rms_norm(q, x[0, 0, 0], 1e-5) is None
        assert layers.rope(x, 16, base=3e3, **turn) is None  # a base that nobody had before
        return x.sum()

    mx.eval(mx.compile(traced)(q), mx.grad(traced)(q), mx.vmap(traced)(q[None]))
    assert layers.rope(q, 16, base=3e3, **turn) is not None


def test_threads_compute_the_same():
    q, k = normal(1, 8, 40, 64), normal(1, 2, 40, 64)
    mx.eval(q, k)

    expected = np.array(layers.attention(q, k, k, scale=0.3, mask="causal"))

    def work():
        with threads.limited_to(3):
            assert np.array_equal(layers.attention(q, k, k, scale=0.3, mask="causal"), expected)

    in_four_threads(work)


PROGRAM = """
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <vector>

namespace mlx_dequant {
%s
}
using namespace mlx_dequant;

// Every element of a view, and no other, lies in memory of its own.
static View made(size_t a, size_t b, size_t c, size_t d) {
  float* values = new float[a * b * c * d];
  for (size_t i = 0; i < a * b * c * d; ++i) values[i] = float(i %% 7) - 3;
  return {values, {a, b, c, d}, {long(b * c * d), long(c * d), long(d), 1}};
}

int main() {
  int* offsets = new int[2]{3, 900};
  const View q = made(2, 6, 5, 19), k = made(2, 3, 9, 19), v = made(2, 3, 9, 21), mask = made(2, 6, 5, 9);
  const View turns = made(1, 1, 1, 9), weight = made(1, 1, 1, 19), places = {offsets, {1, 1, 1, 2}, {0, 0, 0, 1}};
  float* out = new float[2 * 6 * 5 * 21];
  Call calls[] = {{RMS_NORM, PLAIN, 1e-5f, 0, {q, weight}, {}, out}, {ROPE, PLAIN, 1, 18, {q, turns}, places, out},
                  {ROPE, PAIRS, 1, 18, {q, turns}, places, out}, {ATTENTION, PLAIN, 1, 0, {q, k, v}, {}, out},
                  {ATTENTION, CAUSAL, 1, 0, {q, k, v}, {}, out}, {ATTENTION, NUMBERS, 1, 0, {q, k, v}, mask, out},
                  {SWIGLU, PLAIN, 0, 0, {q, q}, {}, out}};
  for (Call& call : calls) {
    void* arrays[] = {&call};
    run(arrays, nullptr, 0, call.function == ROPE ? 2 * 5 : 2 * 6 * 5);
    float sum = 0;
    for (size_t i = 0; i < 2 * 6 * 5 * 19; ++i) sum += out[i];
    printf("%%g ", double(sum));
  }
}
"""


@pytest.mark.full
def test_nothing_is_read_past_an_array(tmp_path):
    """Under AddressSanitizer and UBSan: rows of 19 numbers, which are no whole vectors."""
    obstacle = emulator.obstacle("address")
    if obstacle:
        pytest.skip(obstacle)
    text = kernel_source.inline([Path(layers.__file__).parent / "cpp" / "layers.h"])
    (tmp_path / "layers.cpp").write_text(PROGRAM % text)
    tool = compiler.compiler()
    flags = ["-std=c++17", "-O1", "-march=native", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [*tool.command, *flags, tmp_path / "layers.cpp", "-o", tmp_path / "layers"]
    subprocess.run(command, check=True)
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([tmp_path / "layers"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and len(done.stdout.split()) == 7, done.stderr
