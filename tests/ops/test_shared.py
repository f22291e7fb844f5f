"""One product for weights that multiply the same x: values, views, memory, and what ends the sharing."""

from __future__ import annotations

import gc
import logging
import threading

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.gpu import metal
from mlx_dequant.bench import random_layers
from mlx_dequant.weights.fused import MOST_ROWS, alike, fuse, joint

K, SIZES = 256, (96, 32, 64)
FORMATS = ("q4_k", "q6_k", "q4_0", "f16", "awq4", "gptq4", "gptq3", "gptq4-act", "ct4", "ct4-act")


def separate(name: str = "q4_0", sizes=SIZES):
    kind = name.removesuffix("-act")
    return [random_layers.quantized(kind, size, K, 64, g_idx=kind != name) for size in sizes]


def fused(weights):
    made = fuse(weights, "q, k, v")
    assert made is not None
    return made


def shares(weights) -> bool:
    """Whether all still share a product."""
    return all(joint(weight) is joint(weights[0]) is not weight for weight in weights)


def x_of(rows: int = 1, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    x = mx.random.normal((1, rows, K), key=mx.random.key(seed)).astype(dtype)
    mx.eval(x)
    return x


def through(weights, x: mx.array) -> list[mx.array]:
    return [weight.linear(x) for weight in weights]


def same(found, expected) -> bool:
    return all(mx.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture
def q4_0(host):
    """Weights, and the same fused."""
    weights = separate()
    return weights, fused(weights)


@pytest.mark.parametrize("name", FORMATS)
def test_products_have_the_bits_that_separate_weights_have(name, host):
    weights = separate(name)
    made = fused(weights)
    for rows, dtype in ((1, mx.float32), (1, mx.bfloat16), (MOST_ROWS, mx.float16), (MOST_ROWS + 1, mx.float32)):
        x = x_of(rows, dtype=dtype)
        assert same(through(made, x), through(weights, x)), (rows, dtype)
    for one, other in zip(made, weights, strict=True):
        assert (one.shape, one.dtype, one.settings) == (other.shape, other.dtype, other.settings)
        assert mx.array_equal(one.dequantize(mx.float32), other.dequantize(mx.float32))
        for array, view in ((other.arrays[each], one.arrays[each]) for each in other.arrays):
            assert array is view or mx.array_equal(array.view(mx.uint8), mx.contiguous(view).view(mx.uint8))
    assert shares(made)


def test_every_backend_multiplies_fused_weights(backend):
    weights = separate("gptq4")
    made = fused(weights)
    x = x_of(2)
    for found, expected in zip(through(made, x), through(weights, x), strict=True):
        assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert shares(made)


@pytest.mark.parametrize(("name", "rows", "products"), [("q4_0", 16, 1), ("q4_0", 17, 3), ("awq4", 64, 1)])
def test_few_rows_are_one_product(name, rows, products, host, monkeypatch):
    """In layout KN many rows too: there each weight's own arrays lie apart."""
    made, count = fused(separate(name)), []
    stock = backends.matmul
    monkeypatch.setattr(backends, "matmul", lambda *args: count.append(1) or stock(*args))
    through(made, x_of(rows))
    assert len(count) == products
    assert shares(made)


def test_a_gpu_traces_the_product_once(monkeypatch):
    """MLX's own operations stand in for the launches."""
    values = [mx.random.normal((rows, K), key=mx.random.key(rows)) for rows in SIZES]
    made = fused([mxd.GGUFWeight(each.view(mx.uint8), "F32") for each in values])
    built = []

    def matmul(matrix, x, transpose):
        built.append(matrix.rows)
        dense = matrix.arrays["blocks"].view(mx.float32).reshape(matrix.rows, matrix.columns)
        return x @ (dense.T if transpose else dense)

    monkeypatch.setattr(backends, "current_backend", lambda: "metal")
    monkeypatch.setattr(metal, "matmul", matmul)
    monkeypatch.setattr(metal, "is_replayable", lambda matrix, x, transpose: True)
    for seed in range(3):
        x = x_of(seed=seed)
        for found, value in zip(through(made, x), values, strict=True):
            assert mx.allclose(found, x @ value.T, rtol=1e-4, atol=1e-4)
    assert built == [sum(SIZES)]
    gradient = mx.grad(lambda x: sum(y.sum() for y in through(made, x)))(x)
    assert mx.allclose(gradient, sum(value.sum(axis=0) for value in values), rtol=1e-4, atol=1e-4)
    assert shares(made) and set(built) == {sum(SIZES)}


def test_any_order_and_a_bias(q4_0):
    weights, made = q4_0
    x, bias = x_of(), mx.arange(32.0)
    for order in ((2, 0, 1), (1, 2, 0)):
        assert same([made[at].linear(x) for at in order], [weights[at].linear(x) for at in order])
    parts = [made[1].linear(x, bias), made[0].linear(x), mxd.linear(x, made[2])]
    assert same(parts, [weights[1].linear(x, bias), weights[0].linear(x), weights[2].linear(x)])
    assert shares(made)


def test_a_wrong_x_or_bias_is_told_as_before(q4_0):
    _, made = q4_0
    with pytest.raises(mxd.FormatError, match=r"x: found shape \(1, 8\), expected a last axis of 256 inputs"):
        made[0].linear(mx.zeros((1, 8)))
    with pytest.raises(mxd.FormatError, match=r"bias: found shape \(8,\), expected \(96,\)"):
        made[0].linear(x_of(), mx.zeros(8))
    assert made[1].linear(mx.zeros((0, K))).shape == (0, 32)


# What ends it: two calls, by weight and x.
ENDINGS = {"twice": ((0, 0), (0, 0)), "another x": ((0, 0), (1, 1)), "a second x before the rest": ((0, 0), (0, 1))}


@pytest.mark.parametrize("how", ENDINGS)
def test_calls_that_do_not_come_together_end_it(how, q4_0, caplog):
    weights, made = q4_0
    caplog.set_level(logging.INFO, "mlx_dequant")
    xs = [x_of(), x_of(seed=1)]
    for member, x in (*ENDINGS[how], (2, 0), (2, 1), (1, 0), (0, 1)):
        assert mx.array_equal(made[member].linear(xs[x]), weights[member].linear(xs[x]))
    assert joint(made[0]) is made[0]
    assert [record.getMessage() for record in caplog.records if "a product each" in record.getMessage()] == [
        "q, k, v: a product each from now on: one was called twice or with another x before all had their outputs"
    ]


def test_equal_values_are_not_the_same_x(q4_0):
    weights, made = q4_0
    first, second = x_of(), x_of()
    assert mx.array_equal(made[0].linear(first), weights[0].linear(first))
    assert mx.array_equal(made[1].linear(second), weights[1].linear(second))
    assert not shares(made)


def test_an_x_that_changed_in_place_after_all_took_their_outputs(q4_0):
    weights, made = q4_0
    x = x_of()
    through(made, x)
    x += 1
    assert same(through(made, x), through(weights, x))
    assert shares(made)


def test_outputs_of_one_backend_are_not_another_ones(q4_0):
    _, made = q4_0
    x = x_of()
    made[0].linear(x)
    with mxd.use_backend("reference"):
        expected = separate_product(made[1], x)
        assert mx.array_equal(made[1].linear(x), expected)
    assert not shares(made)


def test_outputs_of_one_precision_are_not_another_ones(q4_0):
    _, made = q4_0
    x = x_of()
    with mxd.use_backend("host", "int8"):
        rounded = separate_product(made[1], x)
        made[0].linear(x)
    with mxd.use_backend("host"):
        expected = separate_product(made[1], x)
        assert mx.array_equal(made[1].linear(x), expected)
    assert not mx.array_equal(rounded, expected)


def separate_product(weight, x):
    return weight.replace().linear(x)


def test_a_weight_with_another_array_multiplies_by_itself(q4_0):
    weights, made = q4_0
    x = x_of()
    changed = made[1].replace(blocks=mx.zeros_like(made[1].arrays["blocks"]))
    assert same([made[0].linear(x), changed.linear(x)], [weights[0].linear(x), mx.zeros((1, 1, 32))])
    through([made[1], made[2]], x)
    assert shares(made)


def test_threads_with_an_x_each(q4_0):
    weights, made = q4_0
    begin, wrong = threading.Barrier(2), []

    def run(seed: int):
        xs = [x_of(seed=seed * 100 + each) for each in range(20)]
        expected = [[np.array(y) for y in through(weights, x)] for x in xs]
        for x, values in zip(xs, expected, strict=True):
            for member in range(3):
                begin.wait(10)  # the other thread is in the middle of another x
                wrong.append(not np.array_equal(np.array(made[member].linear(x)), values[member]))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 120 and not any(wrong)
    assert shares(made)


def test_a_thread_that_ends_it_does_not_disturb_another_one(q4_0):
    weights, made = q4_0
    x, other = x_of(), x_of(seed=1)
    assert mx.array_equal(made[0].linear(x), weights[0].linear(x))
    thread = threading.Thread(target=lambda: (made[0].linear(other), made[0].linear(other)))
    thread.start()
    thread.join(60)
    assert not shares(made)
    assert same(through(made[1:], x), through(weights[1:], x))


@pytest.mark.parametrize("name", ["q4_0", "awq4", "gptq4-act"])
def test_memory_is_that_of_the_separate_arrays(name, host):
    sizes = (1536, 512, 512)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    weights = separate(name, sizes)
    expected = sum(weight.nbytes for weight in weights)
    made = fused(weights)
    assert sum(weight.nbytes for weight in made) == expected
    del weights
    x = x_of()
    mx.eval(through(made, x))
    assert mx.get_active_memory() - before < 1.05 * expected + 30_000
    gc.disable()  # nothing may wait for Python to look for circles
    try:
        del made
        assert mx.get_active_memory() - before < 30_000
    finally:
        gc.enable()


def test_nothing_is_kept_after_all_took_their_outputs(q4_0):
    _, made = q4_0
    through(made, x_of())
    before = mx.get_active_memory()
    for seed in range(3):
        x = x_of(4, seed)
        mx.eval(through(made, x))
        del x
    assert mx.get_active_memory() == before


def test_weights_that_cannot_lie_in_one():
    odd = [mxd.GGUFWeight(mx.zeros((rows, 34 * 8), mx.uint8), "Q8_0") for rows in (1, 2)]
    assert odd[0].nbytes % 16 == 0 and fuse(odd, "") is not None
    odd = [mxd.GGUFWeight(mx.zeros((rows, 34), mx.uint8), "Q8_0") for rows in (1, 2)]
    assert odd[0].nbytes % 16 and fuse(odd, "") is None
    assert fuse([odd[0], odd[0]][:1], "") is not None  # the last may end anywhere
    assert fuse([random_layers.quantized("ct4", size, K, 64) for size in (12, 8)], "") is None


def test_what_is_alike():
    index = np.arange(K, dtype=np.int32)[::-1] // 64
    arrays = {name: separate("gptq4")[0].arrays[name] for name in ("qweight", "scales", "qzeros")}
    other = {**arrays, "scales": arrays["scales"].astype(mx.float32)}
    kinds = [
        *map(alike, (separate("q4_0")[0], separate("q4_1")[0])),
        alike(mxd.GGUFWeight(mx.zeros((8, 18), mx.uint8), "Q4_0")),
        alike(separate("gptq4-act")[0]),
        *(alike(mxd.GPTQWeight(**arrays, group_size=64, zero_points=each)) for each in ("v1", "v2")),
        alike(mxd.GPTQWeight(**arrays, group_size=64, g_idx=index.copy())),
        alike(mxd.GPTQWeight(**other, group_size=64)),
        *(alike(random_layers.quantized("ct4", 8, K, size)) for size in (64, 128)),
    ]
    assert len(set(kinds)) == len(kinds)
    for name in FORMATS:
        assert len(set(map(alike, separate(name)))) == 1
