"""Layers come and go, threads multiply, weights are rewritten meanwhile: no wrong result, and memory stays flat."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

import mlx.core as mx  # noqa: E402
from bridge_support import assert_bits  # noqa: E402
from soak import memory  # noqa: E402

from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.nn import packed_linear  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

SECONDS = float(os.environ.get("MLX_DEQUANT_STRESS_SECONDS", "5"))
THREADS = 8
ROOM = 32 << 20  # bytes that malloc may keep more of
INPUTS, OUTPUTS = 256, 160
NAMES = ("awq4", "gptq4", "gptq3", "ct4", "q4_k", "q6_k")


def layer(name, seed=0, outputs=OUTPUTS):
    """A layer with tensors of its own, which do not share MLX's memory."""
    g_idx = "shuffled" if name == "gptq4" else ""
    made = packed_linear(sample_weights.layer(name, outputs, INPUTS, seed, 64, g_idx=g_idx), "cpu")
    for key, tensor in made.named_buffers():
        made._buffers[key] = tensor.clone()
    return made


def rows(count):
    return torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(count)).half()


class Shared:
    """A layer that is rewritten between two sets of weights, and what it gives with each.

    `epoch` is odd while the weights are written.
    """

    def __init__(self, name):
        self.layer, others = layer(name), [layer(name, seed) for seed in (0, 1)]
        self.x = [rows(count) for count in (1, 3, 40)]
        with torch.no_grad():
            self.results = [[each(x) for x in self.x] for each in others]
        self.sets = [{key: tensor.clone() for key, tensor in each.named_buffers()} for each in others]
        assert not torch.equal(self.results[0][0], self.results[1][0])
        self.epoch = 0

    def rewrite(self):
        self.epoch += 1
        for key, tensor in self.sets[(self.epoch + 1) // 2 % 2].items():
            getattr(self.layer, key).data.copy_(tensor)
        self.epoch += 1

    def multiply(self, random):
        """Whether the product fell into a time without a write, in which it has to be right."""
        at, before = random.randrange(len(self.x)), self.epoch
        with torch.no_grad():
            y = self.layer(self.x[at])
        if before % 2 or self.epoch != before:
            return False
        assert_bits(y, self.results[before // 2 % 2][at])
        return True


def settled():
    gc.collect()
    mx.clear_cache()
    return memory(), mx.get_active_memory()


@pytest.mark.full
def test_two_hundred_layers_come_and_go():
    x = rows(3)
    expected = {name: layer(name, outputs=2048)(x) for name in NAMES}
    for name in NAMES * 4:
        assert_bits(layer(name, outputs=2048)(x), expected[name])
    held, used = settled()
    for at in range(200):
        name = NAMES[at % len(NAMES)]
        assert_bits(layer(name, outputs=2048)(x), expected[name])
    assert not len(WEIGHTS)
    held_after, used_after = settled()
    assert used_after == used
    # Had each layer kept its weights, of 256 KB at least, this would be 50 MB and twice that in MLX.
    assert held_after - held < ROOM


@pytest.mark.full
def test_threads_multiply_while_weights_are_rewritten():
    shared = [Shared(name) for name in NAMES]
    end = threading.Event()

    def multiply(seed):
        random, right = Random(seed), 0
        while not end.is_set():
            right += random.choice(shared).multiply(random)
        return right

    def rewrite():
        random, count = Random(0), 0
        while not end.is_set():
            random.choice(shared).rewrite()
            count += 1
            time.sleep(0.05)  # products between two writes
        return count

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            running = [pool.submit(rewrite), *(pool.submit(multiply, seed) for seed in range(THREADS - 1))]
            end.wait(SECONDS / 2)
            held, used = settled()
            end.wait(SECONDS / 2)
            assert not any(each.done() for each in running)  # one that failed would be
        finally:
            end.set()
        rewrites, *right = [each.result() for each in running]
    assert rewrites > SECONDS
    assert sum(right) > 10 * SECONDS
    held_after, used_after = settled()
    assert held_after - held < ROOM
    assert used_after < used + (8 << 20)
    for each in shared:
        random = Random(1)
        assert all(each.multiply(random) for _ in range(6))
    assert len(WEIGHTS) == len(shared)


def test_a_write_while_a_weight_is_made_shows_at_the_next_call():
    """Otherwise it would stay unseen: the weight is old, and what it is compared with is new."""
    tensor = torch.zeros(1000)

    def make():
        weight = tensor.clone()
        tensor.data.fill_(1)
        return weight

    assert not WEIGHTS.get("test", {"tensor": tensor}, make).any()
    assert WEIGHTS.get("test", {"tensor": tensor}, tensor.clone).all()
