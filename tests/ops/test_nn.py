"""Quantized layers among dense ones: parameters, saving, swapping and training around them."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support import GROUP_SETS, gguf_fixture, group_fixture

import mlx_dequant as mxd
from mlx_dequant.backends.gpu import launch
from mlx_dequant.nn import PackedEmbedding, PackedLinear, pack_model
from mlx_dequant.weights import stored


def q4_0(rows: int, columns: int, seed: int = 0) -> mxd.GGUFWeight:
    """Random weights of size about 1 / sqrt(columns)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
    scales = (rng.uniform(0.5, 1, (rows, columns // 32, 1)) / 8 / columns**0.5).astype(np.float16)
    blocks[..., :2] = scales.view(np.uint8)
    return mxd.GGUFWeight(blocks.reshape(rows, -1), "Q4_0")


def dense(weight: mxd.QuantizedWeight) -> mx.array:
    """float32 [out, in]."""
    stored = weight.dequantize(mx.float32)
    return stored.T if weight.matrix.layout == "KN" else stored


def every_family():
    chosen = {}
    for name in GROUP_SETS:
        weight, _ = group_fixture(name)
        chosen[weight.format.family, weight.arrays.get("g_idx") is not None] = name
    return ["gguf", *chosen.values()]


def weight_of(name: str) -> mxd.QuantizedWeight:
    if name == "gguf":
        return mxd.GGUFWeight(gguf_fixture("q4_k")["real"][0], "Q4_K")
    return group_fixture(name)[0]


@pytest.fixture(params=every_family())
def weight(request):
    return weight_of(request.param)


class Model(nn.Module):
    """Words in, words out, the output tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(96, 64)
        self.layers = [nn.Linear(64, 128), nn.Linear(128, 64, bias=False)]

    def __call__(self, ids: mx.array) -> mx.array:
        x = self.words(ids)
        wide, narrow = self.layers
        return self.words.as_linear(x + narrow(nn.gelu(wide(x))))


def quantized_weights() -> dict[str, mxd.QuantizedWeight]:
    return {"words": q4_0(96, 64, 1), "layers.0": q4_0(128, 64, 2), "layers.1": q4_0(64, 128, 3)}


def twins() -> tuple[Model, Model]:
    """A quantized model, and a dense one of the same weights."""
    packed, plain = Model(), Model()
    bias = mx.random.normal((128,), key=mx.random.key(4))
    packed.layers[0].bias = plain.layers[0].bias = bias
    weights = quantized_weights()
    plain.load_weights([(f"{name}.weight", dense(weight)) for name, weight in weights.items()], strict=False)
    return pack_model(packed, weights, dtype=mx.float32), plain


def test_a_linear_layer_is_its_dense_twin(backend, weight):
    bias = mx.random.normal((weight.out_features,))
    x = mx.random.normal((2, 3, weight.in_features))
    expected = x @ dense(weight).T
    scale = mx.abs(expected).max().item()
    assert mx.allclose(PackedLinear(weight)(x), expected, rtol=0, atol=1e-5 * scale)
    assert mx.allclose(PackedLinear(weight, bias)(x), expected + bias, rtol=0, atol=1e-5 * scale)


def test_an_embedding_gives_exact_rows(backend, weight):
    layer = PackedEmbedding(weight, mx.float32)
    ids = mx.array([[0, 3], [weight.out_features - 1, 3]])
    assert mx.array_equal(layer(ids), dense(weight)[ids])
    x = mx.random.normal((2, weight.in_features))
    assert mx.array_equal(layer.as_linear(x), PackedLinear(weight)(x))
    assert PackedEmbedding(weight)(ids).dtype == weight.dtype


def test_parameters_are_the_weights_arrays(weight):
    layer = PackedLinear(weight, mx.zeros(weight.out_features))
    flat = dict(tree_flatten(layer.parameters()))
    present = {name for name, array in weight.arrays.items() if array is not None}
    text = flat.pop(stored.NAME)
    assert flat.keys() == present | {"bias"}
    assert sum(array.nbytes for array in flat.values()) == weight.nbytes + 4 * weight.out_features
    assert text.nbytes < 128
    again = stored.restore(text, {name: flat[name] for name in present})
    assert mx.array_equal(dense(again), dense(weight))
    assert layer.weight is weight


def test_mlx_lm_counts_weights():
    utils = pytest.importorskip("mlx_lm.utils")
    packed, plain = twins()
    assert utils.get_total_parameters(packed) == utils.get_total_parameters(plain)
    nbytes = sum(array.nbytes for name, array in tree_flatten(packed.parameters()) if not name.endswith(stored.NAME))
    assert nbytes == sum(weight.nbytes for weight in quantized_weights().values()) + 4 * 128


def test_nothing_quantized_is_trained():
    model = nn.Sequential(PackedLinear(q4_0(64, 64), mx.zeros(64)), nn.Linear(64, 2))
    assert [name for name, _ in tree_flatten(model.trainable_parameters())] == ["layers.1.weight", "layers.1.bias"]
    model.unfreeze()
    assert [name for name, _ in tree_flatten(model.trainable_parameters())] == ["layers.1.weight", "layers.1.bias"]


def test_weights_are_saved_and_loaded(weight, tmp_path):
    path = str(tmp_path / "weights.safetensors")
    model = nn.Sequential(PackedLinear(weight, mx.ones(weight.out_features)))
    model.save_weights(path)
    zeros = {name: mx.zeros_like(array) for name, array in weight.arrays.items() if array is not None}
    other = nn.Sequential(PackedLinear(weight.replace(**zeros), mx.zeros(weight.out_features)))
    x = mx.random.normal((2, weight.in_features))
    assert not mx.array_equal(other(x), model(x))
    other.load_weights(path)
    assert mx.array_equal(other(x), model(x))
    assert mx.array_equal(dense(other.layers[0].weight), dense(weight))


def test_loading_refuses_what_does_not_fit(weight):
    layer = PackedLinear(weight)
    for name, array in [(name, array) for name, array in weight.arrays.items() if array is not None]:
        with pytest.raises(mxd.FormatError, match=f"^{name}: found shape"):
            layer.load_weights([(name, array[:-1])], strict=False)
        with pytest.raises(mxd.FormatError, match=f"^{name}: type: found"):
            layer.load_weights([(name, array.astype(mx.int64))], strict=False)
    with pytest.raises(mxd.FormatError, match=r"^mlx_dequant: found \[\], expected \{"):
        layer.load_weights([(stored.NAME, mx.array([91, 93], mx.uint8))], strict=False)
    if "g_idx" in layer:
        with pytest.raises(mxd.FormatError, match=r"^g_idx: found groups 0 to 99, expected 0 to \d+ "):
            layer.load_weights([("g_idx", 99 * (mx.arange(weight.in_features) == 5).astype(mx.int32))], strict=False)
    assert layer.weight is weight
    with pytest.raises(mxd.FormatError, match=r"^array: found 'codez', expected one of"):
        weight.replace(codez=mx.zeros(1))


def test_scales_follow_the_models_type():
    weight = weight_of(next(name for name in every_family() if name != "gguf"))
    layer = PackedLinear(weight)
    layer.set_dtype(mx.float32)
    assert (layer.weight.dtype, layer.weight.matrix.scale_dtype) == (mx.float32, "float32")
    assert mx.array_equal(dense(layer.weight), dense(weight))


def test_a_parameter_changed_in_place_is_the_weights(backend):
    layer = PackedLinear(weight_of(next(name for name in every_family() if name != "gguf")))
    x = mx.random.normal((2, layer.weight.in_features))
    expected = layer(x) * 2
    layer.scales *= 2
    assert mx.allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert mx.array_equal(layer.weight.arrays["scales"], layer.scales)


def test_a_copy_of_a_layer_has_a_weight_of_its_own():
    layer, other = PackedLinear(q4_0(64, 64)), PackedLinear(q4_0(64, 64, seed=1))
    twin = copy.copy(layer)
    twin.update(other.parameters())
    assert mx.array_equal(dense(twin.weight), dense(other.weight))
    assert not mx.array_equal(dense(layer.weight), dense(other.weight))
    layer.update(twin.parameters())
    assert mx.array_equal(dense(layer.weight), dense(other.weight))


def test_packing_a_model_swaps_its_layers(backend):
    packed, plain = twins()
    assert isinstance(packed.words, PackedEmbedding)
    assert all(isinstance(layer, PackedLinear) for layer in packed.layers)
    assert repr(packed.layers[1]) == "PackedLinear(Q4_0, input_dims=128, output_dims=64)"
    ids = mx.array([[1, 2, 95], [0, 0, 7]])
    assert mx.allclose(packed(ids), plain(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.2": q4_0(64, 64)}, "weights: found 'layers.2', expected names of the model's"),
        ({"layers": q4_0(64, 64)}, "weights: found 'layers', expected names of the model's"),
        ({"layers.0": q4_0(64, 128)}, r"layer 'layers.0': found a weight of \(64, 128\), expected \(128, 64\)"),
        ({"layers.0": None, "words": None}, "weights: found none for 'layers.0', 'words'"),
    ],
)
def test_packing_is_strict(change, message):
    weights = {name: weight for name, weight in (quantized_weights() | change).items() if weight is not None}
    model = Model()
    with pytest.raises(mxd.FormatError, match=message):
        pack_model(model, weights)
    assert isinstance(model.words, nn.Embedding)


def test_packing_some_layers():
    model = pack_model(Model(), {"layers.1": q4_0(64, 128)}, strict=False)
    assert [type(layer) for layer in model.layers] == [nn.Linear, PackedLinear]


def test_layers_refuse_other_shapes():
    with pytest.raises(mxd.FormatError, match=r"^bias: found shape \(63,\), expected \(64,\)"):
        PackedLinear(q4_0(64, 64), mx.zeros(63))
    with pytest.raises(mxd.FormatError, match=r"^weight: found shape \(2, 32, 64\), expected a matrix"):
        PackedEmbedding(mxd.GGUFWeight(q4_0(64, 64).arrays["blocks"].reshape(2, 32, -1), "Q4_0"))


class Adapted(nn.Module):
    """A low-rank term beside a layer."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, seed: int):
        super().__init__()
        self.layer = layer
        self.down = mx.random.normal((inputs, 4), key=mx.random.key(seed)) / inputs**0.5
        self.up = mx.zeros((4, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        return self.layer(x) + x @ self.down @ self.up


def train(model: Model, compiled: bool) -> list[float]:
    """Losses of 20 steps of adapters on both layers."""
    model.freeze()
    model.layers = [Adapted(model.layers[0], 64, 128, 5), Adapted(model.layers[1], 128, 64, 6)]
    ids = mx.random.randint(0, 96, (8, 9), key=mx.random.key(7))
    optimizer = optimizers.Adam(1e-2)
    state = [model.state, optimizer.state]

    def loss(ids: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="mean")

    gradient = nn.value_and_grad(model, loss)

    def step(ids: mx.array) -> mx.array:
        value, gradients = gradient(ids)
        optimizer.update(model, gradients)
        return value

    if compiled:
        step = mx.compile(step, inputs=state, outputs=state)
    losses = []
    for _ in range(20):
        losses.append(step(ids).item())
        mx.eval(state)
    return losses


@pytest.mark.parametrize("compiled", [False, True])
def test_adapters_train_as_on_dense_layers(backend, compiled):
    packed, plain = twins()
    found, expected = train(packed, compiled), train(plain, compiled)
    assert expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for name, weight in quantized_weights().items():
        layer = packed.words if name == "words" else packed.layers[int(name[-1])].layer
        assert mx.array_equal(dense(layer.weight), dense(weight))


def test_a_compiled_function_may_have_a_layer_as_its_state():
    """On a GPU its graph holds the weight's arrays, whether or not a transformation makes them."""
    layer = PackedLinear(q4_0(64, 64))

    def call(x: mx.array) -> mx.array:
        return (x * launch.device_arrays(layer.weight.matrix)[0].astype(mx.float32).sum()).sum()

    expected = layer.weight.arrays["blocks"].astype(mx.float32).sum()
    assert mx.compile(mx.grad(call), inputs=layer.state)(mx.array(1.0)) == expected
    assert mx.compile(call, inputs=layer.state)(mx.array(1.0)) == expected


def test_mlx_lm_adapts_a_layer():
    pytest.importorskip("mlx_lm")
    from mlx_lm.tuner.utils import linear_to_lora_layers

    packed, plain = twins()
    x = mx.random.normal((3, 64))
    expected = plain.layers[0](x)
    linear_to_lora_layers(packed, 0, {"rank": 4, "scale": 1.0, "dropout": 0.0, "keys": ["layers.0"]})
    adapted = packed.layers[0]
    assert mx.allclose(adapted(x), expected, rtol=1e-4, atol=1e-4)
    packed.freeze()
    adapted.unfreeze(keys=["lora_a", "lora_b"])
    assert {name.rpartition(".")[2] for name, _ in tree_flatten(packed.trainable_parameters())} == {"lora_a", "lora_b"}
