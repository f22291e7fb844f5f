"""Decoder layers are traced once for all that are alike. MLX's own operations stand in for a GPU's."""

from __future__ import annotations

import copy
import json
import pickle
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_lm.models import llama
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import BatchKVCache, KVCache, RotatingKVCache, make_prompt_cache
from support import freed_at_once, in_four_threads

from mlx_dequant.backends.gpu import metal
from mlx_dequant.fusing import halves, parts
from mlx_dequant.nn import pack_model, packable
from mlx_dequant.ops import replay

SHAPE = {"hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
ARGS = llama.ModelArgs(
    model_type="llama", num_hidden_layers=3, rms_norm_eps=1e-5, vocab_size=96, tie_word_embeddings=False, **SHAPE
)
PROMPTS = (5, 1, 1, 20, 1, 3, 1)  # tokens in each call


def tokens(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, ARGS.vocab_size, shape))


def with_random_weights(model: nn.Module) -> nn.Module:
    mx.random.seed(0)
    found = [(name, array) for name, array in tree_flatten(model.parameters()) if array.ndim]
    values = [(name, mx.random.normal(array.shape), array.ndim) for name, array in found]
    scaled = [(name, each / each.shape[-1] ** 0.5 if axes > 1 else 1 + each / 5) for name, each, axes in values]
    model.load_weights(scaled, strict=False)
    return model.eval()


def packed(model: nn.Module, fuse: bool) -> nn.Module:
    def weight(layer) -> mxd.GGUFWeight:
        return mxd.GGUFWeight(np.array(layer.weight).view(np.uint8), "F32")

    layers = {name: each for name, each in packable(model).items() if not isinstance(each, nn.Embedding)}
    inner = {name: each for name, each in layers.items() if not name.endswith(("router", "mlp.gate", "lm_head"))}
    return pack_model(model, {name: weight(each) for name, each in inner.items()}, strict=False, fuse=fuse)


def twins(make=lambda: llama.Model(ARGS)):
    """A model whose layers are replayed, and one of the same weights without."""
    return [packed(with_random_weights(make()), fuse) for fuse in (True, False)]


def answers(model, rows: int = 1, last: int | None = None) -> list[mx.array]:
    """Scores of several calls, with the model's own cache; or with one that keeps the `last` tokens."""
    cache = make_prompt_cache(model)
    if last is not None:
        cache = [RotatingKVCache(last) if isinstance(each, KVCache) else each for each in cache]
    return [model(tokens(rows, count), cache=cache) for count in PROMPTS]


def same(found, expected) -> bool:
    return all(bool(mx.array_equal(one, other)) for one, other in zip(found, expected, strict=True))


def traces() -> list:
    """What was made for the layers that were called: halves, or a sign that there are none."""
    made = list(replay._traces.values())
    return [each for each in made if isinstance(each, halves.Halves) or each is parts.UNTRACED]


def cut() -> int:
    assert parts.UNTRACED not in traces()
    return len(traces())


def test_layers_that_are_alike_are_traced_once(gpu):
    model, plain = twins()
    expected = answers(plain)
    assert same(answers(model), expected) and cut() == len(set(PROMPTS))
    before = gpu.built
    assert same(answers(model), expected) and gpu.built == before


def test_other_calls_are_as_before(gpu):
    model, plain = twins()
    assert same([model(tokens(2, 6))], [plain(tokens(2, 6))]) and not traces()  # without a cache
    model.train(), plain.train()
    assert same(answers(model), answers(plain)) and not traces()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("last", [None, 8])
def test_caches_of_mlx_lm(rows, last, gpu):
    """With one that forgets, the mask of many tokens is an array."""
    model, plain = twins()
    assert same(answers(model, rows, last), answers(plain, rows, last)) and cut()


def test_quantized_keys(gpu):
    model, plain = twins()
    found = []
    for each in (model, plain):
        caches = [KVCache() for _ in each.layers]
        found.append([each(tokens(1, 4), cache=caches)])
        quantized = [cache.to_quantized(group_size=32, bits=8) for cache in caches]
        found[-1] += [each(tokens(1, count), cache=quantized) for count in (1, 1, 20)]
    assert same(*found) and cut()


def test_texts_of_different_lengths(gpu):
    """Their cache keeps a length for each, and changes that array in place."""
    model, plain = twins()
    found = []
    for each in (model, plain):
        caches = [BatchKVCache([0, 2]) for _ in each.layers]
        found.append([each(tokens(2, count), cache=caches) for count in (6, 1, 1, 20, 1)])
    assert same(*found) and cut()


class Twice(llama.MLP):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_layer_may_change(gpu):
    """An attribute, a weight, an array, a layer: each call looks at them."""
    model, plain = twins()
    before = answers(model)
    for each in (model, plain):
        each.layers[0].self_attn.scale *= 2
        each.layers[1].input_layernorm.weight = each.layers[1].input_layernorm.weight * 2
        each.layers[2].mlp.down_proj.hold(each.layers[1].mlp.down_proj.weight)
        each.layers[2].mlp.__class__ = Twice
    assert same(answers(model), answers(plain)) and not same(answers(model), before)
    for each in (model, plain):
        adapted = each.layers[0].self_attn.o_proj.to_lora(scale=1.0)
        adapted.lora_a, adapted.lora_b = mx.ones_like(adapted.lora_a), mx.ones_like(adapted.lora_b)
        each.layers[0].self_attn.update_modules({"o_proj": adapted})
    assert same(answers(model), answers(plain))


def test_transformations(gpu):
    model, plain = twins()

    def call(each):
        def run(x: mx.array) -> mx.array:
            cache = KVCache()
            return each.layers[0](each.layers[0](x[:, :1], None, cache), None, cache) + x[:, 1:]

        return run

    x = mx.random.normal((1, 2, ARGS.hidden_size))
    for _ in range(2):  # before it was traced, and after
        one, other = call(model), call(plain)
        pairs = [(one, other), (mx.compile(one), mx.compile(other)), (mx.checkpoint(one), mx.checkpoint(other))]
        pairs += [tuple(mx.grad(lambda x, each=each: (each(x) ** 2).sum()) for each in (one, other))]
        assert all(mx.allclose(found(x), expected(x), rtol=1e-5, atol=1e-5) for found, expected in pairs)


def test_all_else_about_a_layer_is_as_before(gpu):
    model, plain = twins()
    expected = answers(plain)
    names = [{name for name, _ in tree_flatten(each.parameters())} for each in (model, plain)]
    assert names[0] == names[1] and repr(model) == repr(plain)
    layer = model.layers[0]
    assert isinstance(layer, llama.TransformerBlock) and type(layer) is not llama.TransformerBlock
    for each in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model):
        assert same(answers(each), expected) and type(each.layers[0]) is type(layer)


def test_a_dropped_model_is_freed(gpu):
    model, _ = twins()
    mx.eval(answers(model))
    with freed_at_once(model.layers[0].mlp.down_proj.weight.matrix):
        del model, _


def test_threads(gpu):
    model, plain = twins()
    expected = answers(plain)
    mx.eval(expected, model.parameters())

    def work():
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(5):
                assert same(answers(model), expected)

    in_four_threads(work)


class Odd(llama.Attention):
    """Attention whose code is not two halves."""

    how = ""

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        batch, count, _ = x.shape
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).reshape(batch, count, -1, 32).swapaxes(1, 2) for layer in layers)
        gate = mx.sigmoid(q[:, :, -1:].mean())
        if self.how == "class of the cache" and isinstance(cache, RotatingKVCache):
            q = q + 1
        if self.how == "keys of the cache" and hasattr(cache, "keys"):
            q = q + 1
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
            if self.how == "length":
                q = q + cache.offset
            if self.how == "keys":
                k = k * 2
        if isinstance(mask, mx.array):
            if self.how == "mask":
                q = q + mask.sum()
            if self.how == "shape of the mask" and mask.shape[-1] > 1:
                q = q + 1
            if self.how == "other mask":
                mask = mask & mask
        y = scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        if self.how == "twice":
            y = y + scaled_dot_product_attention(q * 2, k, v, cache=cache, scale=self.scale, mask=mask)
        if self.how == "gate":
            y = y * gate
        y = y.swapaxes(1, 2).reshape(batch, count, -1)
        if self.how == "shared product":
            y = y * self.g_proj(x)
        return self.o_proj(y)


def odd(how: str) -> nn.Module:
    model = llama.Model(ARGS)
    for layer in model.layers:
        layer.self_attn.__class__ = Odd
        layer.self_attn.how = how
        if how == "shared product":
            layer.self_attn.g_proj = nn.Linear(ARGS.hidden_size, ARGS.hidden_size, bias=False)
    return model


ODD = ("length", "keys", "class of the cache", "keys of the cache", "mask", "shape of the mask", "other mask", "twice",
       "gate", "shared product")  # fmt: skip


@pytest.mark.parametrize("how", ["", *ODD])
def test_layers_without_two_halves_are_called_as_they_are(how, gpu):
    model, plain = twins(lambda: odd(how))
    for _ in range(2):
        for last in (None, 8):
            assert same(answers(model, last=last), answers(plain, last=last))
    untraced = [each for each in traces() if each is parts.UNTRACED]
    assert bool(untraced) == bool(how)


class Choosy(llama.MLP):
    """A feed-forward module that reads another array for one token than for several."""

    def __init__(self, args):
        super().__init__(args)
        self.one, self.several = mx.ones(args.hidden_size), mx.ones(args.hidden_size)

    def __call__(self, x):
        return super().__call__(x) * (self.one if x.shape[1] == 1 else self.several)


def test_an_array_that_some_lengths_read(gpu):
    """The layers differ in it. A batch's mask is an array for every length."""

    def make():
        model = llama.Model(ARGS)
        for layer in model.layers:
            layer.mlp = Choosy(ARGS)
        return model

    model, plain = twins(make)
    found = []
    for each in (model, plain):
        caches = [BatchKVCache([0, 0]) for _ in each.layers]
        found.append([each(tokens(2, count), cache=caches) for count in (1, 3, 1, 2)])
    assert same(*found) and cut()


def test_a_block_that_takes_more_has_its_attention_replayed(gpu):
    class Block(llama.TransformerBlock):
        def __call__(self, x, mask=None, cache=None, scale=1.0):
            return super().__call__(x, mask, cache) * scale

    def make():
        model = llama.Model(ARGS)
        for layer in model.layers:
            layer.__class__ = Block
        return model

    model, plain = twins(make)
    assert [type(layer) for layer in model.layers] == [Block] * ARGS.num_hidden_layers
    assert same(answers(model), answers(plain)) and cut() == len(set(PROMPTS))


def test_layers_of_which_one_has_an_array_twice_are_not_alike(gpu):
    model, plain = twins()
    for each in (model, plain):
        each.layers[0].post_attention_layernorm.weight = each.layers[0].input_layernorm.weight
    assert same(answers(model), answers(plain)) and cut() == 2 * len(set(PROMPTS))


def test_numbered_layers_are_alike(gpu):
    """Unless their code reads the number."""

    class Numbered(llama.MLP):
        def __call__(self, x):
            return super().__call__(x) * sum(self.layer_idx for _ in range(2))

    for kind, count in ((llama.MLP, 1), (Numbered, ARGS.num_hidden_layers)):

        def make(kind=kind):
            model = llama.Model(ARGS)
            for at, layer in enumerate(model.layers):
                layer.mlp.__class__, layer.mlp.layer_idx = kind, at
            return model

        replay._traces.clear()
        model, plain = twins(make)
        assert same(answers(model), answers(plain)) and len(traces()) == count * len(set(PROMPTS))


def test_one_text_then_several(gpu):
    model, plain = twins()
    found = []
    for each in (model, plain):
        found.append(answers(each))
        caches = [BatchKVCache([0]) for _ in each.layers]
        found[-1] += [each(tokens(1, count), cache=caches) for count in (5, 1)]
    assert same(*found) and cut()


def test_a_layer_of_lists_is_called_as_it_is(gpu):
    model, plain = twins()
    model.layers[0].helper = [1, 2]
    assert same(answers(model), answers(plain))


@pytest.mark.parametrize("nbytes", [1 << 20, halves.MOST_BYTES // 3])
def test_dequantized_matrices_wait(nbytes, gpu):
    """A layer's seven products count together; where they are too large, each product waits by itself."""
    model, plain = twins()
    with patch.object(metal, "dense_bytes", lambda *product: nbytes), patch.object(halves, "queued") as queued:
        queued.side_effect = lambda size, product, *inputs: product(*inputs)
        assert same(answers(model), answers(plain))
    assert {call.args[0] for call in queued.call_args_list} == (
        {7 * nbytes, 4 * nbytes} if nbytes == 1 << 20 else set()
    )


# mlx-lm's models, by the names of lm_zoo, not all of whose layers are replayed: they call another attention, have keys
# that they expand or cast, take more than x, a mask and a cache, or see windows through a class of ours.
NOT_ALL = ("mixtral", "qwen2", "qwen3", "gemma2", "phi", "phi3", "starcoder2", "stablelm", "gptj", "deepseek_v3",
           "deepseek_v3 yarn", "ministral3", "ministral3 window", "lfm2", "lfm2_moe")  # fmt: skip
QUICK = ("gpt_oss", "qwen3_moe", "cohere")


def zoo():
    pytest.importorskip("torch", reason="torch is not installed")
    from lm_zoo import ZOO

    return [name for name in ZOO if name != "deepseek_v2 plain"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in zoo()]
)
def test_types_of_mlx_lm(name, tmp_path, gpu):
    from lm_zoo import SETTINGS, as_4, configured

    from mlx_dequant.lm import folder

    config = as_4(configured(name).to_dict()) | {"quantization_config": SETTINGS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, plain = twins(lambda: folder.empty_model(folder.config(tmp_path)))
    replayed = [hasattr(type(layer), "replayed_class") for layer in model.layers]
    for last in (None, 16):
        assert same(answers(model, last=last), answers(plain, last=last))
    assert same(answers(model, 2), answers(plain, 2))
    whole = [each for each in traces() if each is parts.UNTRACED]
    assert (all(replayed) and not whole) == (name not in NOT_ALL)
