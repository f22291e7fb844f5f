"""`pack_model(fuse=True)`: which layers of a model share a product, and that all else about the model is as without."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dequant import backends
from mlx_dequant.bench import random_layers
from mlx_dequant.diagnostics.graph import cost
from mlx_dequant.nn import PackedLinear, fuse_layers, pack_model
from mlx_dequant.weights.fused import joint

WIDTH, WIDE = 256, 512
SHAPES = {
    "attention.q_proj": (256, WIDTH), "attention.k_proj": (64, WIDTH), "attention.v_proj": (64, WIDTH),
    "attention.o_proj": (WIDTH, 256), "gate_proj": (WIDE, WIDTH), "up_proj": (WIDE, WIDTH), "down_proj": (WIDTH, WIDE),
}  # fmt: skip
FORMATS = ("q4_k", "gptq4", "gptq4-act", "awq4", "ct4")


class Attention(nn.Module):
    """No attention, but its layers, and operations that round alike on any strides."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, 256, bias=True)
        self.k_proj = nn.Linear(WIDTH, 64, bias=False)
        self.v_proj = nn.Linear(WIDTH, 64, bias=True)
        self.o_proj = nn.Linear(256, WIDTH, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(q * mx.maximum(mx.tile(k * v, 4), 0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.gate_proj = nn.Linear(WIDTH, WIDE, bias=False)
        self.up_proj = nn.Linear(WIDTH, WIDE, bias=False)
        self.down_proj = nn.Linear(WIDE, WIDTH, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attention(x)
        gate, up = self.gate_proj(x), self.up_proj(x)
        return x + self.down_proj(mx.maximum(gate, 0) * up)


def weights(name: str = "q4_k", **other: str):
    """A weight for each layer, of one format but for `other` by the last part of names."""
    mx.random.seed(0)
    found = {}
    for layer, shape in SHAPES.items():
        form = other.get(layer.rpartition(".")[2], name)
        found[layer] = random_layers.quantized(form.removesuffix("-act"), *shape, 64, g_idx=form.endswith("-act"))
    return found


def twins(name: str = "q4_k", **other: str) -> tuple[Block, Block]:
    """A block with fused layers, and one of the same weights without."""
    packed = weights(name, **other)
    block, plain = Block(), Block()
    plain.update(block.parameters())
    blocks = pack_model(block, packed, fuse=True), pack_model(plain, packed)
    mx.eval([each.parameters() for each in blocks])
    return blocks


def groups(block: nn.Module) -> set[frozenset[str]]:
    """Names of the layers that share a product."""
    found: dict[int, set[str]] = {}
    for name, layer in block.named_modules():
        if isinstance(layer, PackedLinear) and joint(layer.weight) is not layer.weight:
            found.setdefault(id(joint(layer.weight)), set()).add(name.rpartition(".")[2])
    return {frozenset(names) for names in found.values()}


BOTH = {frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"gate_proj", "up_proj"})}


def x_of(*shape: int, seed: int = 0) -> mx.array:
    x = mx.random.normal((*shape, WIDTH), key=mx.random.key(seed)) / 4
    mx.eval(x)
    return x


def near(found, expected) -> bool:
    return all(
        np.abs(np.array(one) - np.array(other)).max() <= 1e-5 * np.abs(np.array(other)).max()
        for (_, one), (_, other) in zip(tree_flatten(found), tree_flatten(expected), strict=True)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_fused_block_gives_the_same_bits(name, host):
    block, plain = twins(name)
    for x in (x_of(), x_of(1), x_of(2, 8), x_of(1, 40), x_of(0, 1)):
        for dtype in (mx.float32, mx.bfloat16):
            assert mx.array_equal(block(x.astype(dtype)), plain(x.astype(dtype))), (x.shape, dtype)
    assert groups(block) == BOTH and groups(plain) == set()


def test_layers_of_another_format_multiply_by_themselves(host):
    block, plain = twins(v_proj="q6_k")
    assert mx.array_equal(block(x_of(1)), plain(x_of(1)))
    assert groups(block) == {frozenset({"q_proj", "k_proj"}), frozenset({"gate_proj", "up_proj"})}
    assert groups(twins("gptq4", k_proj="gptq4-act", up_proj="gptq8")[0]) == {frozenset({"q_proj", "v_proj"})}


@pytest.mark.parametrize(("name", "launches", "fused"), [("q4_k", 7, 4), ("awq4", 7, 4)])
def test_launches_of_a_block(name, launches, fused):
    x = x_of(1).astype(mx.float16)
    mx.eval(x)
    found = []
    with patch.object(backends, "current_backend", lambda: "metal"):
        for block in reversed(twins(name)):
            kernels = cost(lambda block=block: block(x)).kernels
            found.append(kernels.count("CustomKernel"))
    assert found == [launches, fused]


def test_parameters_files_and_freezing_do_not_show_it(host, tmp_path):
    block, plain = twins("gptq4")
    flat, expected = (dict(tree_flatten(each.parameters())) for each in (block, plain))
    assert flat.keys() == expected.keys()
    assert all(mx.array_equal(flat[name], expected[name]) for name in flat)
    assert repr(block) == repr(plain)
    block.save_weights(str(tmp_path / "fused.safetensors"))
    stored = mx.load(str(tmp_path / "fused.safetensors"))
    assert stored.keys() == expected.keys() and all(mx.array_equal(stored[name], expected[name]) for name in expected)
    again = twins("gptq4")[0]
    again.load_weights(str(tmp_path / "fused.safetensors"))
    assert mx.array_equal(again(x_of(1)), plain(x_of(1)))
    block.unfreeze()
    assert {name for name, _ in tree_flatten(block.trainable_parameters())} == set()
    block.freeze()
    assert mx.array_equal(block(x_of(1)), plain(x_of(1))) and groups(block) == BOTH


def test_copies(host):
    block, plain = twins()
    x, other = x_of(1), x_of(1, seed=1)
    pickled, copied = pickle.loads(pickle.dumps(block)), copy.deepcopy(block)
    assert groups(pickled) == set()
    for each in (pickled, copied, block):
        assert mx.array_equal(each(x), plain(x))
    copied.gate_proj["blocks"] = mx.zeros_like(copied.gate_proj["blocks"])
    plain_copy = copy.deepcopy(plain)
    plain_copy.gate_proj["blocks"] = mx.zeros_like(plain.gate_proj["blocks"])
    assert mx.array_equal(copied(other), plain_copy(other))
    assert mx.array_equal(block(other), plain(other))


def test_new_arrays_are_multiplied(host):
    block, plain = twins()
    block(x_of(1))
    new = dict(weights())["gate_proj"].rows(0, 64).arrays["blocks"]
    for each in (block, plain):
        each.attention.update({"k_proj": {"blocks": new}})
    for seed in (0, 1):
        assert mx.array_equal(block(x_of(1, seed=seed)), plain(x_of(1, seed=seed)))
    assert groups(block) == {frozenset({"gate_proj", "up_proj"})}
    everything = mx.zeros_like(block.up_proj["blocks"])
    block.update({"up_proj": {"blocks": everything}, "gate_proj": {"blocks": everything}})
    assert not block.down_proj(block.gate_proj(x_of(1)) * block.up_proj(x_of(1))).any()
    assert groups(block) == set()


def loss(block, x: mx.array) -> mx.array:
    return (block(x) ** 2).sum()


def together(block, x: mx.array) -> mx.array:
    """Products alone: on a CPU, MLX takes seconds to compile operations that it can put into one."""
    return block.down_proj(mx.concatenate([block.gate_proj(x), block.up_proj(x)], axis=-1).reshape(-1, WIDE))


TRANSFORMATIONS = {
    "grad": lambda block, x: mx.grad(lambda x: loss(block, x))(x),
    "value_and_grad": lambda block, x: mx.value_and_grad(lambda x: loss(block, x))(x),
    "checkpoint": lambda block, x: mx.grad(mx.checkpoint(lambda x: loss(block, x)))(x),
    "jvp": lambda block, x: mx.jvp(lambda x: loss(block, x), (x,), (mx.ones_like(x),)),
    "compile": lambda block, x: mx.compile(lambda x: together(block, x))(x),
    "compile, grad": lambda block, x: mx.compile(mx.grad(lambda x: together(block, x).sum()))(x),
    "vmap": lambda block, x: mx.vmap(block)(x),
    "vmap, grad": lambda block, x: mx.vmap(mx.grad(lambda x: loss(block, x)))(x),
}


@pytest.mark.parametrize("how", TRANSFORMATIONS)
def test_transformations(how, host):
    block, plain = twins("gptq4")
    for seed in (0, 1):
        x = x_of(3, seed=seed)
        assert near(TRANSFORMATIONS[how](block, x), TRANSFORMATIONS[how](plain, x))
        assert mx.array_equal(block(x), plain(x))
    assert groups(block) == BOTH


def test_a_trace_leaves_nothing_behind(host):
    """Only one of the layers is called in a trace, so its x and outputs wait for the others."""
    block, plain = twins()
    q, k = block.attention.q_proj, block.attention.k_proj
    compiled = mx.compile(lambda x: q(x))
    x, other = x_of(1), x_of(1, seed=1)
    assert mx.array_equal(compiled(x), plain.attention.q_proj(x))
    assert mx.array_equal(k(x), plain.attention.k_proj(x))
    assert mx.array_equal(compiled(other), plain.attention.q_proj(other))
    assert mx.array_equal(block(other), plain(other))
    assert groups(block) == {frozenset({"gate_proj", "up_proj"})}
    gradient = mx.grad(lambda x: block.gate_proj(x).sum())(x)
    assert near(gradient, mx.grad(lambda x: plain.gate_proj(x).sum())(x))
    assert mx.array_equal(block(x), plain(x))


def test_two_threads(host):
    block, plain = twins()
    xs = [x_of(2, seed=seed) for seed in range(8)]
    expected = [np.array(plain(x)) for x in xs]
    wrong: list[bool] = []

    def run(own: int):
        for _ in range(5):
            for at in range(own, len(xs), 2):
                wrong.append(not np.array_equal(np.array(block(xs[at])), expected[at]))

    threads = [threading.Thread(target=run, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 40 and not any(wrong)
    assert groups(block) == BOTH


@pytest.mark.parametrize("name", ["q4_k", "gptq4"])
def test_memory_of_a_model(name, host):
    """Only one group's arrays are there twice at a time; a dropped model is freed at once."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    packed = weights(name)
    size = sum(weight.nbytes for weight in packed.values())
    block = Block()
    pack_model(block, packed)
    packed.clear()
    mx.eval(block.parameters())
    separate = mx.get_active_memory() - before
    mx.reset_peak_memory()
    fuse_layers(block)
    largest = 2 * block.gate_proj.weight.nbytes
    assert groups(block) == BOTH
    assert mx.get_cache_memory() < 0.03 * size
    assert mx.get_peak_memory() - before < separate + 1.2 * largest
    assert abs(mx.get_active_memory() - before - separate) < 0.03 * size
    assert sum(array.nbytes for _, array in tree_flatten(block.parameters())) < 1.1 * size
    mx.eval(block(x_of(1)), block(x_of(40)))
    gc.disable()
    try:
        del block
        assert mx.get_active_memory() - before < 0.03 * size
    finally:
        gc.enable()
