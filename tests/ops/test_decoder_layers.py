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
from mlx_dequant.fusing import decoder_layers, halves
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
    return [each for each in made if isinstance(each, halves.Halves) or each is decoder_layers._WHOLE]


def cut() -> int:
    assert decoder_layers._WHOLE not in traces()
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


def test_a_layer_may_change(gpu):
    """An attribute, a weight, an array, a layer: each call looks at them."""
    model, plain = twins()
    before = answers(model)
    for each in (model, plain):
        each.layers[0].self_attn.scale *= 2
        each.layers[1].input_layernorm.weight = each.layers[1].input_layernorm.weight * 2
        each.layers[2].mlp.down_proj.hold(each.layers[1].mlp.down_proj.weight)
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
        q, k, v = (
            each(x).reshape(batch, count, -1, 32).swapaxes(1, 2) for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        gate = mx.sigmoid(q[:, :, -1:].mean())
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
            if self.how == "length":
                q = q + cache.offset
            if self.how == "keys":
                k = k * 2
        if self.how == "mask" and mask is not None and not isinstance(mask, str):
            q = q + mask.sum()
        if self.how == "other mask" and count == 1:
            mask = mx.zeros((1, 1), mx.bool_) == 0
        y = scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        if self.how == "twice":
            y = y + scaled_dot_product_attention(q * 2, k, v, cache=cache, scale=self.scale, mask=mask)
        if self.how == "gate":
            y = y * gate
        return self.o_proj(y.swapaxes(1, 2).reshape(batch, count, -1))


@pytest.mark.parametrize("how", ["", "length", "keys", "mask", "other mask", "twice", "gate"])
def test_layers_without_two_halves_are_called_as_they_are(how, gpu):
    def make():
        model = llama.Model(ARGS)
        for layer in model.layers:
            layer.self_attn.__class__ = Odd
            layer.self_attn.how = how
        return model

    model, plain = twins(make)
    for last in (None, 8):
        assert same(answers(model, last=last), answers(plain, last=last))
    whole = [each for each in traces() if each is decoder_layers._WHOLE]
    assert bool(whole) == bool(how)


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
    whole = [each for each in traces() if each is decoder_layers._WHOLE]
    assert (all(replayed) and not whole) == (name not in NOT_ALL)
