"""Tiny Llamas in pairs: one whose decoder layers are replayed, and one of the same weights without. For tests."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

import mlx_dequant as mxd
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
