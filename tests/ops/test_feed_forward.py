"""Feed-forward modules are traced once for all layers that are alike. MLX's own operations stand in for a GPU's."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3_moe import Qwen3MoeSparseMoeBlock
from mlx_lm.models.switch_layers import SwitchGLU
from support import freed_at_once, in_four_threads

import mlx_dequant as mxd
from mlx_dequant.nn import PackedLinear, pack_model
from mlx_dequant.ops import replay

WIDTH, WIDE, EXPERTS = 32, 64, 4


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, WIDE, bias=False)
        self.up_proj = nn.Linear(WIDTH, WIDE, bias=False)
        self.down_proj = nn.Linear(WIDE, WIDTH, bias=True)
        self.scale = 1.0

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x)) * self.scale


class MoE(nn.Module):
    """As Qwen's: a dense router and experts."""

    __call__ = Qwen3MoeSparseMoeBlock.__call__

    def __init__(self):
        super().__init__()
        self.top_k, self.norm_topk_prob, self.sharding_group = 2, True, None
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.switch_mlp = SwitchGLU(WIDTH, WIDE, EXPERTS)


class Layer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.mlp = kind()

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self, kind, layers: int = 3):
        super().__init__()
        self.layers = [Layer(kind) for _ in range(layers)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


def packed(model: nn.Module, seed: int = 0) -> dict[str, mxd.GGUFWeight]:
    rng = np.random.default_rng(seed)
    found = {}
    for name, module in model.named_modules():
        if "weight" in module and not name.endswith("mlp.gate"):
            values = rng.normal(size=module.weight.shape).astype(np.float32) / 8
            found[name] = mxd.GGUFWeight(values.view(np.uint8), "F32")
    return found


def twins(kind) -> tuple[Model, Model]:
    """A model whose feed-forward modules are replayed, and one of the same weights without."""
    mx.random.seed(0)
    model, plain = Model(kind), Model(kind)
    plain.update(model.parameters())
    weights = packed(model)
    model, plain = pack_model(model, weights, strict=False, fuse=True), pack_model(plain, weights, strict=False)
    return model.eval(), plain.eval()


def x_of(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal((*shape, WIDTH), key=mx.random.key(seed))


def near(found, expected) -> bool:
    pairs = zip(tree_flatten(found), tree_flatten(expected), strict=True)
    return all(bool(mx.allclose(one, other, rtol=1e-5, atol=1e-5)) for (_, one), (_, other) in pairs)


KINDS = pytest.mark.parametrize("kind", [MLP, MoE])


@KINDS
def test_layers_that_are_alike_are_traced_once(kind, gpu):
    model, plain = twins(kind)
    before = gpu.built
    found = [model(x_of(*shape)) for shape in ((1, 1), (2,), (1, 1), (2,), ())]
    products = 2 if kind is MLP else 3  # gate and up share one
    assert gpu.built - before == 3 * products
    before = gpu.built
    expected = [plain(x_of(*shape)) for shape in ((1, 1), (2,), (1, 1), (2,), ())]
    assert near(found, expected) and gpu.built - before <= 9
    assert near(model(x_of(1, 40)), plain(x_of(1, 40)))


@KINDS
def test_transformations(kind, gpu):
    model, plain = twins(kind)
    x = x_of(2)
    for _ in range(2):  # before it was traced, and after
        losses = [lambda x, call=call: (call(x) ** 2).sum() for call in (model, plain)]
        assert near(*[mx.grad(loss)(x) for loss in losses])
        assert near(*[mx.compile(call)(x) for call in (model, plain)])
        assert near(*[mx.checkpoint(call)(x) for call in (model, plain)])
        assert near(*[mx.jvp(call, [x], [x])[1] for call in (model, plain)])
        assert near(model(x), plain(x))
    if kind is MoE:  # whose routers are dense, and trained
        losses = [nn.value_and_grad(each, lambda x, each=each: (each(x) ** 2).sum()) for each in (model, plain)]
        gradients = [loss(x)[1] for loss in losses]
        assert len(tree_flatten(gradients[0])) == 3 and near(*gradients)


def test_a_module_may_change(gpu):
    """An attribute, a weight, an array, a layer: each call looks at them."""
    model, plain = twins(MLP)
    x = x_of(1)
    before = model(x)
    for each in (model, plain):
        each.layers[1].mlp.scale = 2.0
        each.layers[0].mlp.down_proj["bias"] = mx.ones(WIDTH)
    assert near(model(x), plain(x)) and not near(model(x), before)
    for each in (model, plain):
        each.layers[2].mlp.down_proj.hold(packed(Model(MLP), 1)["layers.2.mlp.down_proj"])
        each.layers[0].mlp.update_modules({"down_proj": each.layers[1].mlp.down_proj.to_lora(scale=1.0)})
        each.layers[0].mlp.down_proj.lora_b = mx.ones_like(each.layers[0].mlp.down_proj.lora_b)
    model.layers[0].mlp.down_proj.lora_a = plain.layers[0].mlp.down_proj.lora_a
    assert near(model(x), plain(x))
    model, plain = twins(MoE)
    for top_k in (2, 3):
        for each in (model, plain):
            each.layers[0].mlp.top_k = top_k
        assert near(model(x), plain(x))


@KINDS
def test_all_else_about_a_module_is_as_before(kind, gpu):
    model, plain = twins(kind)
    x = x_of(1)
    names = [{name for name, _ in tree_flatten(each.parameters())} for each in (model, plain)]
    assert names[0] == names[1] and repr(model) == repr(plain)
    mlp = model.layers[0].mlp
    assert isinstance(mlp, kind) and type(mlp) is not kind
    expected = plain(x)
    for each in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model):
        assert near(each(x), expected) and type(each.layers[0].mlp) is type(mlp)
    mlp.helper = [1, 2]  # no array and no module: such a module is called as it is
    assert near(model(x), expected)


class Doubled(MLP):
    """Layers that could share a product are called with different x."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.gate_proj(x) * self.up_proj(2 * x))


class Stacked(MLP):
    """Products have more rows than x."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(mx.concatenate([x] * 20)).sum(axis=0, keepdims=True)


@pytest.mark.parametrize("kind", [Doubled, Stacked])
def test_modules_whose_products_are_not_those_expected(kind, gpu):
    model, plain = twins(kind)
    for shape in ((1, 1), (1, 2), (1, 1)):
        assert near(model(x_of(*shape)), plain(x_of(*shape)))


def test_a_dropped_model_is_freed(gpu):
    model, _ = twins(MLP)
    mx.eval(model(x_of(1)))
    with freed_at_once(model.layers[0].mlp.down_proj.weight.matrix):
        del model, _


def test_threads(gpu):
    model, plain = twins(MLP)
    inputs = [x_of(1, seed=seed) for seed in range(4)]
    expected = [plain(x) for x in inputs]
    mx.eval(inputs, expected, model.parameters())

    def work():
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(20):
                assert near([model(x) for x in inputs], expected)

    in_four_threads(work)


def traced_whole() -> bool:
    """Whether a module was traced: its kind is a number, a product's has more to it."""
    return any(isinstance(key[0], int) for key in replay._traces)


def test_a_module_in_training_is_not_replayed(gpu):
    model, _ = twins(MLP)
    model.train()
    model(x_of(1))
    before = gpu.built
    model(x_of(1))
    assert gpu.built == before and not traced_whole()
    model.eval()
    model(x_of(1))
    assert gpu.built > before and traced_whole()


def test_a_module_that_takes_more_than_x_is_not_replayed(gpu):
    class Other(MLP):
        def __call__(self, x, mask):
            return x

    for kind in (Other, MLP):
        model = Model(kind)
        pack_model(model, packed(model), strict=False, fuse=True)
        mlp = model.layers[0].mlp
        assert (type(mlp) is kind) == (kind is Other)
        assert type(mlp.down_proj) is PackedLinear
