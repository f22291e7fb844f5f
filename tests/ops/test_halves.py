"""Which code of decoder layers is cut before and after attention, and that all other is called as it is."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_lm.models import llama
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import BatchKVCache, RotatingKVCache
from replayed_models import ARGS, PROMPTS, answers, cut, same, tokens, traces, twins

from mlx_dequant.fusing import parts
from mlx_dequant.ops import replay


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
