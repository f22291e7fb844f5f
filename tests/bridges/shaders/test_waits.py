"""A token of a model whose layers torch runs itself: the host never waits for the device."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch", reason="the shaders run on torch's tensors")

from emulator.shader_library import Function, torch_shaders  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from mlx_dequant.backends.host.compiler import compiler  # noqa: E402
from mlx_dequant.bridges.nn import packed_linear  # noqa: E402
from mlx_dequant.bridges.nn.gguf_layers import packed_embedding  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")

# What brings values of a device to the host. On tensors of the CPU some of it shows in no operation of torch.
METHODS = ("cpu", "numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__")
OPERATIONS = ("_local_scalar_dense", "nonzero", "unique2", "_unique2", "masked_select")
SIZE, VOCABULARY = 256, 96


class Seen(TorchDispatchMode):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in OPERATIONS:
            self.count(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_waits():
    """Counts waits by their names. The emulator reads tensors, as a device does: that is no wait."""
    waits, inside = Counter(), []

    def count(name):
        if not inside:
            waits[name] += 1

    def counting(name, real):
        def method(*arguments, **options):
            count(name)
            return real(*arguments, **options)

        return method

    def run(*arguments, real=Function.__call__, **options):
        inside.append(True)
        try:
            return real(*arguments, **options)
        finally:
            inside.pop()

    with pytest.MonkeyPatch.context() as patch, Seen(count):
        for name in METHODS:
            patch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
        patch.setattr(torch.mps, "synchronize", counting("synchronize", lambda: None))
        patch.setattr(Function, "__call__", run)
        yield waits


class Model(torch.nn.Module):
    """A layer of each family between a packed embedding and a packed head."""

    def __init__(self):
        super().__init__()
        self.embedding = packed_embedding(sample_weights.layer("q8_0", VOCABULARY, SIZE), torch.float16, 1.0, "cpu")
        layers = [("awq4", ""), ("gptq4", "shuffled"), ("ct4", ""), ("q4_k", "")]
        made = [sample_weights.layer(name, SIZE, SIZE, group_size=64, g_idx=g_idx) for name, g_idx in layers]
        self.layers = torch.nn.ModuleList(packed_linear(weight, "cpu") for weight in made)
        self.head = self.embedding.as_linear()

    def forward(self, ids):
        """The next token of each row, which stays on the device."""
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + torch.nn.functional.normalize(layer(x).float(), dim=-1).half()
        return self.head(x).argmax(-1)


def test_tokens_wait_for_nothing():
    model, ids = Model(), torch.tensor([7])
    with torch_shaders(), torch.no_grad():
        with counted_waits() as first:
            tokens = [model(ids)]
        with counted_waits() as waits:
            for _ in range(3):
                tokens.append(model(tokens[-1]))
    # Once, g_idx is read, to sort the codes by it.
    assert first["numpy"] and first["cpu"]
    assert not waits
    assert all(0 <= int(token) < VOCABULARY for token in tokens)


@pytest.mark.parametrize("wait", [*METHODS[:6], "nonzero", "synchronize"])
def test_a_wait_is_seen(wait):
    x = torch.ones(1)
    with counted_waits() as waits:
        getattr(torch.mps if wait == "synchronize" else x, wait)()
    assert waits[wait]
