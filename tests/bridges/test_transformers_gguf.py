"""transformers' packed GGUF models on our kernels: the real classes of the installed transformers."""

from __future__ import annotations

import gc

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")
kernels = pytest.importorskip("transformers.integrations.gguf.kernels", reason="transformers keeps no blocks packed")
pytest.importorskip("mlx_lm", reason="the models of these tests need mlx-lm")

import numpy as np  # noqa: E402
from bridge_support import assert_bits, assert_product  # noqa: E402
from lm_models import transformers_model, write_gguf  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.integrations.gguf import utils  # noqa: E402

from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges import transformers_gguf as ours  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402
from mlx_dequant.diagnostics import compare, sample_weights  # noqa: E402

INPUTS, OUTPUTS, EXPERTS = 256, 64, 4


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
    assert len(WEIGHTS) == count - EXPERTS


def test_types_that_are_plain_numbers_are_left_to_torch():
    assert len(ours.GEMV_TYPES) > 20
    assert not ours.GEMV_TYPES & {0, 1, 30}


def test_a_model_of_transformers_stays_packed(installed, tmp_path):
    pytest.importorskip("accelerate", reason="transformers reads a GGUF file with accelerate")
    dense = transformers_model("llama")
    write_gguf(tmp_path / "model.gguf", "llama", dense)
    load = {"gguf_file": "model.gguf", "dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **load).eval()
    layers = [module for module in model.modules() if isinstance(module, utils.GgufLinear)]
    assert len(layers) >= 7 * dense.config.num_hidden_layers
    WEIGHTS.clear()
    ids = torch.tensor([[5, 17, 200, 3, 9]])
    with torch.no_grad():
        found, expected = model(ids).logits, dense(ids).logits
    assert len(WEIGHTS) >= len(layers)  # ours multiplied
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **options), dense.generate(ids, **options))


def test_another_transformers_is_named(monkeypatch):
    monkeypatch.delattr(kernels, "GgufKernel")
    with pytest.raises(ImportError, match=r"found no GgufKernel, expected that of 5.24"):
        ours.install()
