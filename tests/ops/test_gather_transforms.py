"""Products with experts under MLX's transformations: gradients of every order, vmap, jvp and compile."""

from contextlib import ExitStack
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from expert_cases import EXPERTS, experts
from product_cases import SIZES, UNSORTED, near, near_jvp, numbers

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends import reference
from mlx_dequant.backends.gpu import gather_matmul
from mlx_dequant.backends.gpu.matmul import BoundProduct

NAMES = ("q4_k", "gptq4", "ct3")


def plain_gather_matmul(matrix, x, ids, transpose, sorted):
    """A GPU's product as a graph. A convolution has no jvp, as custom kernels have none."""
    dense = np.stack([reference.weights(matrix.expert(number)) for number in range(matrix.experts)])
    dense = mx.array(dense.swapaxes(1, 2) if transpose else dense)
    y = x.astype(mx.float32)[:, None, None] @ dense[ids]
    return mx.conv1d(y.reshape(1, -1, 1), mx.ones((1, 1, 1))).reshape(*ids.shape, -1).astype(x.dtype)


def plain_product(platform, matrix, shape, dtype, transpose):
    """A GPU's product with a dequantized expert, as a graph."""

    def run(expert, x):
        dense = mx.array(reference.weights(expert)).astype(dtype)
        return x @ (dense.T if transpose else dense)

    return BoundProduct(run, dense_bytes=4 * matrix.size)


CASES = [
    *((name, place) for place in mxd.available_backends() for name in (NAMES if place != "reference" else NAMES[:1])),
    *((name, "graph") for name in NAMES[:2]),
    pytest.param((NAMES[2], "each expert"), marks=pytest.mark.full),  # MLX compiles half a minute
]


@pytest.fixture(params=CASES, ids="-".join)
def stacked(request):
    """A stack, its exact weights [experts, out, in], and its backend in force."""
    name, place = request.param
    with ExitStack() as stack:
        if place in ("graph", "each expert"):  # a GPU as MLX's transformations see it
            import emulator  # not everything that runs tests has what it needs

            stack.enter_context(emulator.metal())
            whole = (backends.metal, "gather_matmul", plain_gather_matmul)
            parts = (gather_matmul, "bound_product", plain_product)
            stack.enter_context(patch.object(*(whole if place == "graph" else parts)))
        else:
            stack.enter_context(mxd.use_backend(place))
        packed, dense = experts(name, UNSORTED if place == "each expert" else SIZES[1])
        yield packed, mx.array(dense.astype(np.float32))


def inputs(packed, dense, rows=3, k=2, own_rows=False):
    """x of a size that keeps a sine of y differentiable by eye, and ids."""
    rng = np.random.default_rng(5)
    scale = float(mx.sqrt((dense**2).sum(axis=-1)).max())
    x = numbers(rng, (rows, k, packed.in_features) if own_rows else (rows, packed.in_features), mx.float32) / scale
    return x, mx.array(rng.integers(0, EXPERTS, (rows, k)))


def calls(packed, dense, ids):
    """The product and its twin with dequantized weights, as functions of x."""

    def twin(x):
        rows = x if x.ndim == ids.ndim + 1 else x[..., None, :]
        return (rows[..., None, :] @ dense[ids].swapaxes(-1, -2)).squeeze(-2)

    return lambda x: packed.gather_linear(x, ids), twin


def loss(call):
    return lambda x: (mx.sin(call(x)) ** 2).sum()


@pytest.mark.parametrize("own_rows", [False, True])
def test_derivatives_are_the_dense_layers(stacked, own_rows):
    x, ids = inputs(*stacked, own_rows=own_rows)
    ours, twin = calls(*stacked, ids)
    near(mx.grad(loss(ours))(x), mx.grad(loss(twin))(x))

    def again(call):
        return lambda x: (mx.grad(loss(call))(x) ** 2).sum()

    near(mx.grad(again(ours))(x), mx.grad(again(twin))(x))
    near_jvp(ours, twin, x)
    along = mx.jvp(mx.grad(loss(ours)), [x], [x])[1][0]
    near(along, mx.jvp(mx.grad(loss(twin)), [x], [x])[1][0])


def test_the_gradient_against_finite_differences(stacked):
    """Along some directions, in float64."""
    x, ids = inputs(*stacked)
    ours, _ = calls(*stacked, ids)
    gradient = np.array(mx.grad(loss(ours))(x), np.float64)
    of_ids = np.array(stacked[1], np.float64)[np.array(ids)]
    x64, rng = np.array(x, np.float64), np.random.default_rng(6)

    def value(x):
        return (np.sin(np.einsum("mi,mkoi->mko", x, of_ids)) ** 2).sum()

    for _ in range(3):
        step = 1e-5 * rng.normal(size=x64.shape)
        near((gradient * step).sum() * 1e5, (value(x64 + step) - value(x64 - step)) / 2 * 1e5)


def test_ids_are_followed_too(stacked):
    """Of ids that a transformation computes, as a router's, the gradient is that of x alone."""
    x, _ = inputs(*stacked)
    packed, dense = stacked

    def router(x):
        return mx.argsort(x[:, :EXPERTS], axis=-1)[:, :2]

    ours = mx.grad(lambda x: (mx.sin(packed.gather_linear(x, router(x))) ** 2).sum())(x)
    _, twin = calls(packed, dense, router(x))
    near(ours, mx.grad(loss(twin))(x))


def test_compile(stacked):
    packed, dense = stacked
    compiled = mx.compile(packed.gather_linear)
    for rows, k in ((1, 2), (3, 2), (9, 3)):  # as many choices as experts, and more
        for own_rows in (False, True):
            x, ids = inputs(packed, dense, rows, k, own_rows)
            ours, twin = calls(packed, dense, ids)
            near(compiled(x, ids), twin(x))
            near(mx.compile(ours)(x), twin(x))
    near(mx.compile(mx.grad(loss(ours)))(x), mx.grad(loss(twin))(x))
    near(mx.grad(mx.compile(loss(ours)))(x), mx.grad(loss(twin))(x))


def test_vmap(stacked):
    real = plain_gather_matmul is not backends.metal.gather_matmul and plain_product is not gather_matmul.bound_product
    if backends.is_lazy() and real:
        pytest.skip("MLX does not map custom kernels")
    packed, dense = stacked
    x, ids = inputs(packed, dense)
    _, twin = calls(packed, dense, ids)
    near(mx.vmap(packed.gather_linear)(x, ids), twin(x))
    near(mx.vmap(packed.gather_linear, in_axes=(1, 1), out_axes=1)(x.T, ids.T), twin(x).swapaxes(0, 1))
    row, _ = calls(packed, dense, ids[0])
    near(mx.vmap(row)(x), calls(packed, dense, mx.broadcast_to(ids[0], (3, 2)))[1](x))
    near(mx.vmap(lambda ids: packed.gather_linear(x[0], ids))(ids), twin(mx.broadcast_to(x[0], x.shape)))
    near(
        mx.vmap(mx.grad(lambda x, ids: loss(lambda x: packed.gather_linear(x, ids))(x)))(x, ids), mx.grad(loss(twin))(x)
    )


def test_types_of_gradients(stacked):
    x, ids = inputs(*stacked)
    ours, _ = calls(*stacked, ids)
    for dtype in (mx.float16, mx.bfloat16):
        assert mx.grad(lambda x: ours(x).sum())(x.astype(dtype)).dtype == dtype
