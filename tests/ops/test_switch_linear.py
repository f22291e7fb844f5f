"""PackedSwitchLinear in the place of mlx-lm's SwitchLinear."""

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.nn import PackedLayer, PackedSwitchLinear, pack_model
from mlx_dequant.weights import stored

layers = pytest.importorskip("mlx_lm.models.switch_layers", reason="mlx-lm is not installed (extra lm)")

IN, HIDDEN, EXPERTS = 64, 96, 4


def stack(name, outputs, inputs, seed=0):
    each = [sample_weights.layer(name, outputs, inputs, seed * EXPERTS + number, 32) for number in range(EXPERTS)]
    return mxd.stack(each)


class Block(nn.Module):
    """Experts with mlx-lm's layers, and a router."""

    def __init__(self, bias=False):
        super().__init__()
        self.gate = nn.Linear(IN, EXPERTS, bias=False)
        self.experts = layers.SwitchGLU(IN, HIDDEN, EXPERTS, bias=bias)

    def __call__(self, x, k=2):
        scores = self.gate(x)
        ids = mx.stop_gradient(mx.argpartition(-scores, k - 1, axis=-1)[..., :k])
        weights = mx.softmax(mx.take_along_axis(scores, ids, axis=-1), axis=-1)
        return (self.experts(x, ids) * weights[..., None]).sum(axis=-2)


def pair(name, bias):
    """A packed block and mlx-lm's own with the same weights."""
    mx.random.seed(0)
    packed, dense = Block(bias), Block(bias)
    weights = {}
    for at, (part, size) in enumerate((("gate", (HIDDEN, IN)), ("up", (HIDDEN, IN)), ("down", (IN, HIDDEN)))):
        weights[f"experts.{part}_proj"] = stack(name, *size, seed=at)
        dense.experts[f"{part}_proj"].weight = weights[f"experts.{part}_proj"].dequantize(mx.float32)
        if bias:
            dense.experts[f"{part}_proj"].bias = mx.random.normal((EXPERTS, size[0]))
            packed.experts[f"{part}_proj"].bias = dense.experts[f"{part}_proj"].bias
    packed.gate.weight = dense.gate.weight
    return pack_model(packed, weights, strict=False), dense


def near(found, expected):
    assert mx.abs(found - expected).max().item() <= 2e-5 * mx.abs(expected).max().item()


def plain(function, x):
    """What it computes on the CPU: on a GPU, MLX 0.32's gather_mm of sorted rows can be wrong (ml-explore/mlx#4253)."""
    with mx.stream(mx.cpu):
        found = function(x)
        mx.eval(found)
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["q8_0", "awq4", "gptq4", "ct4"])
def test_a_block_computes_what_mlx_lms_does(name, bias, backend):
    packed, dense = pair(name, bias)
    assert {type(layer) for layer in packed.experts.leaf_modules().values()} >= {PackedSwitchLinear}
    for shape in ((1, 1), (2, 5), (1, 40)):  # mlx-lm sorts from 64 choices on
        x = mx.random.normal((*shape, IN))
        near(packed(x), plain(dense, x))
    gradient = plain(mx.grad(lambda x: (dense(x) ** 2).sum()), x)
    near(mx.grad(lambda x: (packed(x) ** 2).sum())(x), gradient)
    near(mx.compile(packed)(x), plain(dense, x))


@pytest.mark.parametrize(
    ("x", "ids"),
    [
        ((2, 3, 1, 1, IN), (2, 3, 2)),
        ((2, 3, 2, 1, IN), (2, 3, 2)),
        ((1, 1, IN), (3,)),
        ((3, 1, IN), (3,)),
        ((3, 4, IN), (3,)),
        ((2, 1, 4, IN), (2, 3)),
        ((4, IN), ()),
        ((1, 4, IN), (2, 3)),
    ],
)
def test_axes_broadcast_as_mlx_lms_do(x, ids, backend):
    packed, dense = pair("q8_0", True)
    rng = np.random.default_rng(0)
    x, ids = mx.array(rng.normal(size=x).astype(np.float32)), mx.array(rng.integers(0, EXPERTS, ids))
    expected = dense.experts.up_proj(x, ids)
    found = packed.experts.up_proj(x, ids)
    assert found.shape == expected.shape
    near(found, expected)


def test_a_layer_shows_what_it_is():
    layer = PackedSwitchLinear(stack("gptq4", 32, 64), mx.zeros((EXPERTS, 32)))
    assert (layer.num_experts, layer.output_dims, layer.input_dims) == (EXPERTS, 32, 64)
    assert "GPTQ 4-bit, input_dims=64, output_dims=32, num_experts=4" in str(layer)
    names = {name for name, _ in tree_flatten(layer.parameters())}
    assert names == {"qweight", "qzeros", "scales", "bias", "mlx_dequant"}
    assert tree_flatten(layer.trainable_parameters()) == []
    assert layer(mx.ones((1, 1, 64), mx.float16), mx.array([0, 1])).dtype == mx.float16
    x, ids = mx.ones((1, 1, 64)), mx.array([0, 3])
    assert mx.array_equal(copy.deepcopy(layer)(x, ids), layer(x, ids))


@pytest.mark.parametrize("name", ["q8_0", "awq4", "gptq4", "ct4"])
def test_a_stack_is_restored_from_its_arrays(name):
    packed = stack(name, 32, 64)
    text = stored.description(packed)
    arrays = {name: array for name, array in packed.arrays.items() if array is not None}
    again = stored.restore(text, arrays)
    assert (type(again), again.shape) == (type(packed), packed.shape)
    assert mx.array_equal(again.dequantize(mx.float32), packed.dequantize(mx.float32))
    assert mx.array_equal(stored.description(again), text)
    with pytest.raises(mxd.FormatError, match=r"mlx_dequant: experts: found arrays of \[3\], expected 4"):
        stored.restore(text, {name: array[:3] for name, array in arrays.items()})


@pytest.mark.parametrize("name", ["q8_0", "gptq4"])
def test_a_dense_layer_takes_its_place(name, backend):
    packed, dense = pair(name, True)
    x = mx.random.normal((2, 5, IN))
    from mlx_dequant.lm.dense import unpack_model

    unpacked = unpack_model(packed)
    assert not any(isinstance(layer, PackedLayer) for _, layer in unpacked.named_modules())
    weight = unpacked.experts.up_proj.weight
    assert weight.shape == dense.experts.up_proj.weight.shape
    assert mx.array_equal(weight, dense.experts.up_proj.weight.astype(weight.dtype))
    again, _ = pair(name, True)
    nn.quantize(again, group_size=32, bits=8, class_predicate=lambda path, layer: path == "experts.down_proj")
    assert isinstance(again.experts.down_proj, layers.QuantizedSwitchLinear)
    assert mx.abs(again(x) - dense(x)).max().item() <= 0.02 * mx.abs(dense(x)).max().item()


def test_parameters_can_be_loaded():
    layer, other = (PackedSwitchLinear(stack("awq4", 32, 64, seed)) for seed in (0, 1))
    layer.load_weights(tree_flatten(other.parameters()))
    assert mx.array_equal(layer.weight.dequantize(), other.weight.dequantize())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PackedSwitchLinear(stack("q8_0", 8, 32)[0]), r"weight: found shape \(8, 32\), expected a stack \["),
        (lambda: mxd.nn.PackedLinear(stack("q8_0", 8, 32)), r"weight: found shape \(4, 8, 32\), expected a matrix"),
        (lambda: PackedSwitchLinear(stack("q8_0", 8, 32), mx.ones(8)), r"bias: found shape \(8,\), expected \(4, 8\)"),
        (lambda: PackedSwitchLinear(stack("q8_0", 8, 32))(mx.ones(32), mx.array([0])), r"x: found shape \(32,\)"),
        (
            lambda: pack_model(Block(), {"experts.up_proj": stack("q8_0", IN, HIDDEN)}, strict=False),
            r"layer 'experts.up_proj': found a weight of \(4, 64, 96\), expected \(4, 96, 64\)",
        ),
        (
            lambda: pack_model(Block(), {"experts.up_proj": stack("q8_0", HIDDEN, IN)[0]}, strict=False),
            r"layer 'experts.up_proj': found a weight of \(96, 64\), expected \(4, 96, 64\)",
        ),
        (
            lambda: pack_model(Block(), {"gate": stack("q8_0", EXPERTS, IN)}, strict=False),
            r"layer 'gate': found a weight of \(4, 4, 64\), expected \(4, 64\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(mxd.FormatError, match=message):
        make()
