"""vllm-metal's layers on our weights, and its loader of folders, with stand-ins for its modules."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant import FormatError
from mlx_dequant.bridges import vllm_metal
from mlx_dequant.diagnostics import bounds, compare, sample_weights

NAMES = ("vllm_metal", "vllm_metal.quant", "vllm_metal.quant.awq_loader")


@runtime_checkable
class GGUFTensor(Protocol):
    """The members of vllm-metal's protocol of that name."""

    @property
    def out_features(self) -> int: ...

    @property
    def in_features(self) -> int: ...

    def matmul(self, x: mx.array) -> mx.array: ...

    def embedding(self, ids: mx.array, output_dtype: mx.Dtype) -> mx.array: ...

    def eval_arrays(self) -> None: ...


@pytest.mark.parametrize("name", ["q4_k", "iq4_xs", "f16", "gptq4"])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_a_tensor_multiplies_and_looks_up(name, dtype):
    weight = sample_weights.layer(name, 96, 256)
    tensor = vllm_metal.Tensor(weight)
    tensor.eval_arrays()
    assert isinstance(tensor, GGUFTensor)
    assert (tensor.out_features, tensor.in_features) == (96, 256)
    dense = compare.exact(weight)
    x = mx.array(np.random.default_rng(0).normal(size=(2, 256)).astype(np.float32)).astype(dtype)
    y = tensor.matmul(x[None])
    assert (y.shape, y.dtype) == ((1, 2, 96), dtype)
    expected = bounds.matmul_bound(compare.as_float32(x).astype(np.float64), dense.T.astype(np.float64), dtype)
    assert not compare.within(compare.as_float32(y[0]), *expected).wrong
    rows = tensor.embedding(mx.array([[5, 0]]), dtype)
    assert rows.dtype == dtype
    assert (compare.as_float32(rows) == compare.as_float32(mx.array(dense[[5, 0]]).astype(dtype))).all()


def test_experts_are_no_matrix():
    stack = mxd.GGUFWeight(mx.zeros((2 * 4, 34), mx.uint8), "Q8_0", (2, 4, 32))
    with pytest.raises(FormatError, match=r"weight: found shape \(2, 4, 32\), expected a matrix"):
        vllm_metal.Tensor(stack)


@pytest.fixture
def loader(monkeypatch):
    """vllm-metal's class, as far as `install` sees it."""

    class AWQQuantLoader:
        @classmethod
        def for_model(cls, model_name):
            return cls, model_name

    modules = {name: ModuleType(name) for name in NAMES}
    modules[NAMES[-1]].AWQQuantLoader = AWQQuantLoader
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield AWQQuantLoader
    vllm_metal.uninstall()


def test_gptq_folders_are_ours_and_others_are_not(loader, tmp_path):
    vllm_metal.install()
    vllm_metal.install()  # once is enough
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    assert isinstance(loader.for_model(str(tmp_path)), vllm_metal.FolderLoader)
    for other in ({"quant_method": "awq"}, None, {}):
        config.write_text(json.dumps({"quantization_config": other}))
        assert loader.for_model(str(tmp_path)) == (loader, str(tmp_path))
    config.write_text("{")
    assert loader.for_model(str(tmp_path)) == (loader, str(tmp_path))
    assert loader.for_model("owner/name") == (loader, "owner/name")
    vllm_metal.uninstall()
    assert isinstance(vars(loader)["for_model"], classmethod)


def test_without_vllm_metal_that_is_said(loader, monkeypatch):
    monkeypatch.delattr(loader, "for_model")
    with pytest.raises(ImportError, match=r"expected that of vllm-metal 0\.3"):
        vllm_metal.install()
    monkeypatch.setitem(sys.modules, NAMES[-1], None)
    with pytest.raises(ImportError, match=r"found no AWQQuantLoader.for_model"):
        vllm_metal.install()


@pytest.mark.full
def test_a_gptq_folder_is_a_model_of_mlx_lm(tmp_path):
    pytest.importorskip("mlx_lm", reason="the model is mlx-lm's")
    torch = pytest.importorskip("torch", reason="transformers makes the model with torch")
    from lm_folders import write_folder
    from lm_models import transformers_model
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    dense = transformers_model("llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    weights = {key: value.numpy() for key, value in dense.state_dict().items()}
    exact = write_folder(tmp_path / "model", "gptq act-order", json.loads(dense.config.to_json_string()), weights)
    dense.load_state_dict({key: torch.from_numpy(value) for key, value in exact.items()})
    words = Tokenizer(models.WordLevel({"a": 5, "?": 0}, "?"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="?").save_pretrained(tmp_path / "model")

    options = {"trust_remote_code": False}
    load = vllm_metal.FolderLoader().load
    model, tokenizer = load(str(tmp_path / "model"), target_dtype=mx.float32, tokenizer_config=options)
    ids = [[5, 17, 200, 3]]
    with torch.no_grad():
        expected = dense(torch.tensor(ids)).logits.numpy()
    assert np.abs(np.array(model(mx.array(ids))) - expected).max() < 2e-5 * np.abs(expected).max()
    assert tokenizer.encode("a") == [5]
