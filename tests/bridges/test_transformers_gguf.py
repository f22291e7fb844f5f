"""transformers' packed GGUF models on our kernels: the real classes of the installed transformers."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")
kernels = pytest.importorskip("transformers.integrations.gguf.kernels", reason="transformers keeps no blocks packed")
pytest.importorskip("mlx_lm", reason="the models of these tests need mlx-lm")

import gguf  # noqa: E402
import numpy as np  # noqa: E402
from bridge_support import assert_bits, assert_product  # noqa: E402
from lm_models import transformers_model  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from transformers.integrations.gguf import utils  # noqa: E402

from mlx_dequant import FormatError, bridges  # noqa: E402
from mlx_dequant.bridges import transformers_gguf as ours  # noqa: E402
from mlx_dequant.bridges import views  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402
from mlx_dequant.diagnostics import compare, sample_weights  # noqa: E402

INPUTS, OUTPUTS, EXPERTS = 256, 64, 4
Q8_0 = 8


@pytest.fixture
def installed():
    ours.install()
    yield
    ours.uninstall()
    assert kernels._gguf_kernel is None


def blocks(name, rows=OUTPUTS):
    """The blocks uint8 [rows, row bytes] of a type, its number, and the exact weights [rows, in]."""
    weight = sample_weights.layer(name, rows, INPUTS)
    bytes_ = to_torch(weight.arrays["blocks"], "cpu").clone().view(rows, -1)
    return bytes_, weight.format.ggml_type, torch.from_numpy(np.array(compare.exact(weight)))


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)).to(dtype)


@pytest.mark.parametrize("name", ["q4_k", "iq2_xxs", "q8_0", "tq1_0"])
def test_the_four_functions(installed, name):
    weight, kind, dense = blocks(name)
    x = numbers(3, INPUTS, dtype=torch.float16)
    assert kernels.get_gguf_kernel().supports(kind)
    assert_product(kernels.mul_mat_vec(weight, x, kind, OUTPUTS), x, dense.T.double())
    kernel = kernels.get_gguf_kernel()
    assert_bits(kernel.dequantize(weight, kind, OUTPUTS, INPUTS, torch.bfloat16), dense.bfloat16())
    ids = torch.tensor([5, 0, OUTPUTS - 1, 5])
    assert_bits(kernel.get_rows(weight, ids, kind, INPUTS, torch.float32), dense[ids])


def test_experts(installed):
    flat, kind, dense = blocks("q4_0", EXPERTS * OUTPUTS)
    stack, x = flat.view(EXPERTS, OUTPUTS, -1), numbers(5, INPUTS)
    ids = torch.tensor([[0, 2], [2, 1], [0, 0], [3, 2], [1, 3]], dtype=torch.int32)
    for _ in range(2):
        y = kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS)
        assert y.shape == (5, 2, OUTPUTS)
        for row, experts in enumerate(ids.tolist()):
            for place, expert in enumerate(experts):
                matrix = dense.view(EXPERTS, OUTPUTS, INPUTS)[expert]
                assert_product(y[row, place], x[row], matrix.T.double())
        assert len(WEIGHTS) >= EXPERTS
    count = len(WEIGHTS)
    kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS)
    assert len(WEIGHTS) == count  # the same views, so nothing crossed again
    with pytest.raises(FormatError, match="ids: found expert 4, expected 0 to 3"):
        kernels.mul_mat_id(stack, x, ids + 1, kind, OUTPUTS)
    del stack, flat
    gc.collect()
    assert len(WEIGHTS) <= count - EXPERTS  # those of other tests may be freed, too


def test_stacks_of_experts_are_invalidated_and_released(installed):
    flat, kind, _ = blocks("q8_0", EXPERTS * OUTPUTS)
    layer = SimpleNamespace(gate_up_proj=flat.view(EXPERTS, OUTPUTS, -1))
    x, ids = numbers(1, INPUTS), torch.arange(EXPERTS)[None]

    def product(stack):
        return kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS)

    before = product(layer.gate_up_proj)
    layer.gate_up_proj.data[0, 5, 10:14] ^= 0x55  # between sampled values
    expected = product(layer.gate_up_proj.clone())
    assert not torch.equal(before, expected)
    bridges.invalidate(layer)
    assert_bits(product(layer.gate_up_proj), expected)
    bridges.release(layer)
    assert layer.gate_up_proj.shape == (0,)
    assert_bits(product(layer.gate_up_proj), expected)


def test_old_views_of_a_stack_are_forgotten(installed):
    flat, kind, _ = blocks("q8_0", EXPERTS * OUTPUTS)
    stack = flat.view(EXPERTS, OUTPUTS, -1).clone()
    x, ids = numbers(1, INPUTS), torch.arange(EXPERTS)[None]
    kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS)
    old = StorageWeakRef(stack.untyped_storage())
    stack.data = stack.clone()
    bridges.invalidate(stack)
    gc.collect()
    assert old.expired() and len(WEIGHTS) == 0


def test_other_threads_multiply_while_a_stack_is_released(installed, monkeypatch):
    flat, kind, _ = blocks("q8_0", EXPERTS * OUTPUTS)
    stack, x, ids = flat.view(EXPERTS, OUTPUTS, -1), numbers(1, INPUTS), torch.arange(EXPERTS)[None]
    expected, found, threads = kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS), [], []

    def empty(tensor, real=views.empty):
        threads.append(threading.Thread(target=lambda: found.append(kernels.mul_mat_id(stack, x, ids, kind, OUTPUTS))))
        threads[-1].start()
        threads[-1].join(0.05)
        assert threads[-1].is_alive()  # it waits, where it would read what is given up
        real(tensor)

    monkeypatch.setattr(views, "empty", empty)
    bridges.release(SimpleNamespace(gate_up_proj=stack))
    for thread in threads:
        thread.join(60)
    assert len(found) == len(threads) == EXPERTS + 1
    assert all(torch.equal(each, expected) for each in found)


def test_types_that_are_plain_numbers_are_left_to_torch():
    assert len(ours.GEMV_TYPES) > 20
    assert not ours.GEMV_TYPES & {0, 1, 30}


def packed(values):
    """A matrix as Q8_0: its blocks, and the values that they stand for."""
    blocks = gguf.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0)
    return torch.from_numpy(blocks), torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0))


def test_a_model_of_transformers_with_its_packed_layers(installed):
    """The model is a Llama, whose files transformers 5.24 unpacks; its layers are the same for all models."""
    dense, model = transformers_model("llama"), transformers_model("llama")
    plan = {f"{name}.weight": Q8_0 for name, layer in dense.named_modules() if isinstance(layer, torch.nn.Linear)}
    replaced = utils.replace_with_gguf_modules(model, dict(plan), kernels.get_gguf_kernel(), torch.float32)
    assert replaced.keys() == plan.keys()
    for name, layer in replaced.items():
        assert type(layer) is utils.GgufLinear
        weight = dense.get_parameter(name).data
        blocks, values = packed(weight)
        layer.weight.data.copy_(blocks)
        weight.copy_(values)
    WEIGHTS.clear()
    ids = torch.tensor([[5, 17, 200, 3, 9]])
    with torch.no_grad():
        found, expected = model(ids).logits, dense(ids).logits
    assert len(WEIGHTS) == len(plan)  # ours multiplied
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **options), dense.generate(ids, **options))


def test_experts_of_transformers(installed):
    sizes = EXPERTS, 64, 32  # hidden and intermediate
    layer = utils.GgufExperts(*sizes, Q8_0, Q8_0, torch.nn.functional.silu)
    with torch.no_grad():
        gate_up, gate_up_values = packed(numbers(EXPERTS, 64, 64))
        down, down_values = packed(numbers(EXPERTS, 64, 32))
        layer.gate_up_proj.copy_(gate_up)
        layer.down_proj.copy_(down)
        x, ids, shares = numbers(5, 64), torch.randint(EXPERTS, (5, 2)), torch.rand(5, 2)
        found = layer(x, ids, shares)
        for row in range(5):
            expected = torch.zeros(64)
            for expert, share in zip(ids[row], shares[row], strict=True):
                gate, up = (gate_up_values[expert] @ x[row]).chunk(2)
                expected += share * (down_values[expert] @ (torch.nn.functional.silu(gate) * up))
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-4)


def test_another_transformers_is_named(monkeypatch):
    monkeypatch.delattr(kernels, "GgufKernel")
    with pytest.raises(ImportError, match=r"found no GgufKernel, expected that of 5.24"):
        ours.install()
