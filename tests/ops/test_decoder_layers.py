"""Decoder layers are traced once for all that are alike. MLX's own operations stand in for a GPU's."""

from __future__ import annotations

import copy
import pickle
from unittest.mock import patch

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, KVCache
from replayed_models import ARGS, PROMPTS, answers, cut, same, tokens, traces, twins
from support import freed_at_once, in_four_threads

from mlx_dequant.backends.gpu import metal
from mlx_dequant.fusing import halves


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
