"""Products under MLX's transformations: gradients of every order, vmap, jvp and compile.

In float32, where sums of these sizes are good to about 1e-6 of the largest result.
"""

from contextlib import contextmanager
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from product_cases import exact, near, near_jvp, numbers, weight

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends import reference
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.ops.transforms import is_traced

NAMES = ("q4_k", "gptq4", "ct3", "f32")


def plain_matmul(matrix, x, transpose):
    dense = mx.array(reference.weights(matrix))
    y = (x.astype(mx.float32) @ (dense.T if transpose else dense)).astype(x.dtype)
    # A convolution has no jvp, as custom kernels have none.
    return mx.conv1d(y.reshape(1, -1, 1), mx.ones((1, 1, 1), y.dtype)).reshape(y.shape)


def plain_gather(matrix, ids, dtype, axis):
    dense = mx.array(reference.weights(matrix))
    return (dense.T if axis else dense)[ids].astype(dtype)


@contextmanager
def on(backend):
    """A backend in force: one of the package's, the emulator, or "graph".

    The emulator needs values at once, which `mx.compile` and `mx.vmap` have not. "graph" is a GPU
    backend as these see it: it builds a graph, of plain operations.
    """
    if backend in mxd.available_backends():
        with mxd.use_backend(backend):
            yield
        return
    import emulator  # not everything that runs tests has what it needs

    with emulator.metal():
        if backend == "graph":
            with (
                patch.object(backends.metal, "matmul", plain_matmul),
                patch.object(backends.metal, "gather", plain_gather),
            ):
                yield
        else:
            yield


GPUS = {"metal", "cuda"}


def layers(extra, but=()):
    """A fixture: a quantized weight, while its backend is in force."""
    places = [place for place in (*mxd.available_backends(), extra) if place not in but]
    # The reference's products are of one kind whatever the format.
    cases = [(name, place) for place in places for name in NAMES if place != "reference" or name == "q4_k"]

    @pytest.fixture(params=cases, ids="-".join)
    def layer(request):
        name, place = request.param
        if place == "emulator" and compiler() is None:
            pytest.skip("no C++ compiler to run kernels with")
        with on(place):
            yield weight(name, (130, 77))

    return layer


layer = layers("emulator")
traced = layers("graph")
mapped = layers("graph", but=GPUS)


def dense(layer):
    """The layer's product with the dequantized weight."""
    matrix = mx.array(exact(layer).T.astype(np.float32))
    return lambda x: x @ matrix


def inputs(layer, rows=3):
    """x of a size that keeps a sine of y differentiable by eye, and its float64 twin."""
    scale = np.sqrt((exact(layer) ** 2).sum(axis=1)).max()
    x = numbers(np.random.default_rng(5), (rows, layer.in_features), mx.float32) / float(scale)
    return x, np.array(x, np.float64)


def loss(call):
    return lambda x: (mx.sin(call(x)) ** 2).sum()


def test_the_gradient_against_finite_differences(layer):
    """Along some directions, in float64 on the exact weight."""
    x, x64 = inputs(layer)
    rng = np.random.default_rng(6)
    bias = numbers(rng, (layer.out_features,), mx.float32)
    gradient, by_bias = mx.grad(lambda x, b: (mx.sin(layer.linear(x, b)) ** 2).sum(), argnums=(0, 1))(x, bias)

    def value(x, b):
        return (np.sin(x @ exact(layer).T + b) ** 2).sum()

    bias64 = np.array(bias, np.float64)
    for _ in range(3):
        step = 1e-5 * rng.normal(size=x64.shape)
        slope = (value(x64 + step, bias64) - value(x64 - step, bias64)) / 2
        near((np.array(gradient, np.float64) * step).sum() * 1e5, slope * 1e5)
        step = 1e-5 * rng.normal(size=bias64.shape)
        slope = (value(x64, bias64 + step) - value(x64, bias64 - step)) / 2
        near((np.array(by_bias, np.float64) * step).sum() * 1e5, slope * 1e5)


def test_the_second_derivative_against_finite_differences(layer):
    x, x64 = inputs(layer)
    direction = np.roll(x64, 1, axis=0)
    along = mx.array(direction.astype(np.float32))
    curved = mx.grad(lambda x: (mx.grad(loss(layer.linear))(x) * along).sum())(x)

    def value(step):
        return (np.sin((x64 + step * direction) @ exact(layer).T) ** 2).sum()

    step = 1e-3
    second = (value(step) - 2 * value(0) + value(-step)) / step**2
    # The difference itself is good to about step^2.
    assert abs((np.array(curved, np.float64) * direction).sum() - second) <= 1e-4 * abs(second)


def test_derivatives_are_the_dense_layers(layer):
    x, _ = inputs(layer)
    twin = dense(layer)
    near(mx.grad(loss(layer.linear))(x), mx.grad(loss(twin))(x))

    def again(call):
        return lambda x: (mx.grad(loss(call))(x) ** 2).sum()

    near(mx.grad(again(layer.linear))(x), mx.grad(again(twin))(x))
    near_jvp(layer.linear, twin, x)


def test_what_a_transformation_follows_is_told_from_what_none_does():
    found = []

    def look(x):
        later = mx.sin(x)
        found.extend([is_traced(x), is_traced(later)])
        return later.sum()

    def look_after_evaluation(x):
        mx.eval(later := mx.sin(x))
        found.append(is_traced(later))
        return look(later)

    def twice(x):
        return mx.grad(look)(x).sum()

    x = mx.ones((2, 3))
    is_traced(x)
    for call in (mx.grad(look), mx.grad(twice), mx.grad(look_after_evaluation), mx.grad(mx.checkpoint(look))):
        mx.eval(call(x))
    mx.eval(mx.compile(look)(x), mx.compile(mx.grad(look))(x), mx.vmap(look)(x), mx.jvp(look, [x], [x])[1])
    assert len(found) >= 15
    assert all(found)
    assert not is_traced(x)
    assert not is_traced(mx.sin(x))


def test_compile(traced):
    x, _ = inputs(traced)
    twin = dense(traced)
    near(mx.compile(traced.linear)(x), twin(x))
    near(mx.compile(mx.grad(loss(traced.linear)))(x), mx.grad(loss(twin))(x))
    near(mx.grad(mx.compile(loss(traced.linear)))(x), mx.grad(loss(twin))(x))
    compiled = mx.compile(traced.linear)
    for rows in (1, 2, 17):
        x, _ = inputs(traced, rows)
        near(compiled(x), twin(x))


def test_jvp(traced):
    x, _ = inputs(traced)
    twin = dense(traced)
    near_jvp(traced.linear, twin, x)
    along = mx.jvp(mx.grad(loss(traced.linear)), [x], [x])[1][0]
    near(along, mx.jvp(mx.grad(loss(twin)), [x], [x])[1][0])


def test_vmap(mapped):
    x, _ = inputs(mapped, 4)
    twin = dense(mapped)
    near(mx.vmap(mapped.linear)(x), twin(x))
    near(mx.vmap(mapped.linear, in_axes=1, out_axes=1)(x.T), twin(x).T)
    stack = x.reshape(2, 2, -1)
    near(mx.vmap(mx.vmap(mapped.linear), in_axes=1, out_axes=1)(stack), twin(stack))
    near(mx.vmap(mx.grad(loss(mapped.linear)))(x), mx.grad(loss(twin))(x))
    near(mx.grad(lambda x: loss(mx.vmap(mapped.linear))(x))(x), mx.grad(loss(twin))(x))
    near(mx.compile(mx.vmap(mapped.linear))(x), twin(x))
    ids = mx.array([[1, 2], [0, -1]])
    for call in (mx.vmap(mapped.take), mx.vmap(mapped.take, in_axes=1, out_axes=1)):
        assert mx.array_equal(call(ids), mapped.take(ids))


@pytest.mark.parametrize("place", sorted(GPUS & set(mxd.available_backends())))
def test_a_gpu_refuses_vmap(place):
    """As MLX does of every custom kernel: not a wrong result."""
    with mxd.use_backend(place):
        packed = weight("q4_k")
        with pytest.raises(ValueError, match="vmap"):
            mx.vmap(packed.linear)(mx.ones((2, packed.in_features)))
        with pytest.raises(ValueError, match="vmap"):
            mx.vmap(packed.take)(mx.array([0, 1]))


def test_types_of_gradients(layer):
    for dtype in (mx.float16, mx.bfloat16):
        x, _ = inputs(layer)
        assert mx.grad(lambda x: layer.linear(x).sum())(x.astype(dtype)).dtype == dtype


def test_look_ups(traced):
    ids = mx.array([[1, 2], [0, -1]])
    expected = exact(traced)[np.array(ids)].astype(np.float32)
    assert mx.array_equal(mx.compile(traced.take)(ids), traced.take(ids))
    assert np.array_equal(np.array(mx.compile(lambda ids: traced.take(ids, mx.float32))(ids)), expected)
