"""Mixtures of experts from folders, against transformers with the same weights unpacked."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.nn import PackedLinear, PackedSwitchLinear

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_experts import MIXTURES, as_folder, as_state, mixture  # noqa: E402
from lm_folders import write_folder  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
SIZES = {"hidden_size": 128, "intermediate_size": 64}
FORMATS = ("gptq", "gptq act-order", "awq", "compressed-tensors")


@pytest.fixture
def small(tmp_path, tokenizer):
    """Writes a small mixture as a folder: its path, and transformers' model of the same weights."""

    def write(name, form):
        model = mixture(name, **SIZES)
        state = model.state_dict()
        config = json.loads(model.config.to_json_string())
        exact = write_folder(tmp_path / "model", form, config, as_folder(name, state))
        tokenizer.save_pretrained(tmp_path / "model")
        model.load_state_dict(as_state(name, exact, state))
        return tmp_path / "model", model

    return write


def cases():
    # gpt-oss's folders have no matrix for each expert.
    for at, name in enumerate(name for name in MIXTURES if name != "gpt_oss"):
        for i, form in enumerate(FORMATS):
            marks = () if i == at % len(FORMATS) or name == "qwen3_moe" else pytest.mark.full
            yield pytest.param(name, form, id=f"{name}-{form}", marks=marks)


def converted():
    for name in MIXTURES:
        for form in FORMATS if name != "gpt_oss" else ():
            marks = () if (name, form) == ("qwen3_moe", "awq") else pytest.mark.full
            yield pytest.param(name, form, id=f"{name}-{form}", marks=marks)


@pytest.mark.parametrize(("name", "form"), list(converted()))
def test_mlx_lm_alone_opens_a_converted_mixture(name, form, small, tmp_path):
    path, _ = small(name, form)
    rows = mxd.lm.convert(path, tmp_path / "mlx", to="mlx")
    assert all(row.error < 1e-3 for row in rows)
    kinds = {row.target.partition(",")[0] for row in rows if "switch_mlp" in row.name}
    assert kinds == {"float16" if "act-order" in form else "affine 4-bit"}
    model = mlx_lm.load(str(tmp_path / "mlx"))[0]
    model.set_dtype(mx.float32)
    expected = mxd.lm.load(path, dtype=mx.float32)[0](mx.array(IDS))
    assert mx.abs(model(mx.array(IDS)) - expected).max() < 3e-2 * mx.abs(expected).max()


@pytest.mark.parametrize(("name", "form"), list(cases()))
def test_a_mixture_computes_what_transformers_does(name, form, small):
    path, theirs = small(name, form)
    ours, _ = mxd.lm.load(path, dtype=mx.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    found = np.array(ours(mx.array(IDS)))
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max()
    layers = dict(ours.named_modules())
    experts = [layer for layer in layers.values() if isinstance(layer, PackedSwitchLinear)]
    assert len(experts) == 3 * (3 - theirs.config.to_dict().get("first_k_dense_replace", 0))
    assert all(layer.weight.format.bits == 4 for layer in experts)
    assert isinstance(ours.layers[-1].self_attn.o_proj, PackedLinear)
