"""Models of mlx-lm whose layers share products answer as those whose layers do not."""

from __future__ import annotations

from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_folders import write_folder
from lm_models import transformers_model, write_gguf
from lm_ranks import Rank, over_threads
from mlx_lm import utils
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import linear_to_lora_layers
from support import each_with_one

from mlx_dequant import backends
from mlx_dequant.bench import models, random_layers
from mlx_dequant.lm.load import load_model, opened
from mlx_dequant.nn import PackedLinear, fuse_layers
from mlx_dequant.weights.fused import joint

IDS = mx.array(np.random.default_rng(0).integers(0, 288, (2, 24)))
SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 320}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def fused_layers(model: nn.Module) -> int:
    return sum(
        joint(layer.weight) is not layer.weight for _, layer in model.named_modules() if isinstance(layer, PackedLinear)
    )


def answers(model) -> list[np.ndarray]:
    """Scores of a prompt and of the tokens after it, with a cache."""
    steps = generate_step(IDS[0], model, max_tokens=5)
    return [np.array(scores) for _, scores in steps] + [np.array(model(IDS)), np.array(model(IDS[:, :3]))]


def same(model, other) -> bool:
    return all(map(np.array_equal, answers(model), answers(other)))


@pytest.fixture
def llama(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=2))
    return path


def loaded(path, **options):
    return load_model(opened(path), mx.float32, **options)[0]


@pytest.mark.parametrize(("name", "shape"), each_with_one(["q4_k", "gptq4-act", "awq4"], ["smollm2-135m", "qwen3-4b"]))
def test_a_model_gives_the_same_bits(name, shape, host):
    settings = models.CONFIGS[shape] | SMALL
    kind = models.Kind("mlx-dequant", name.removesuffix("-act"), name.endswith("-act"))
    ends = models.shared(settings, "dense", mx.float32)
    mx.random.seed(0)
    model = models.model(kind, settings, mx.float32, ends)
    mx.random.seed(0)
    plain = models.model(kind, settings, mx.float32, ends)
    if name == "q4_k":  # as files of Q4_K_M have them
        value = random_layers.quantized("q6_k", 128, 256, 64)
        model.layers[0].self_attn.v_proj.hold(value)
        plain.layers[0].self_attn.v_proj.hold(value)
    fuse_layers(model)
    assert same(model, plain)
    assert (fused_layers(model), fused_layers(plain)) == (9 if name == "q4_k" else 10, 0)


def test_files_and_folders_are_loaded_fused(llama, tmp_path, host):
    model, tokenizer = mxd.lm.load(llama, mx.float32, fuse=True)
    assert same(model, loaded(llama))
    assert fused_layers(model) == 10
    assert tokenizer.eos_token_ids
    dense = transformers_model("qwen3", hidden_size=128, num_hidden_layers=1)
    weights = {name: value.numpy() for name, value in dense.state_dict().items()}
    write_folder(tmp_path / "folder", "compressed-tensors asymmetric", dense.config.to_dict(), weights)
    model = loaded(tmp_path / "folder", fuse=True)
    assert same(model, loaded(tmp_path / "folder"))
    assert fused_layers(model) == 5


def test_layers_are_replayed_on_a_gpu(llama):
    with patch.object(backends, "current_backend", lambda: "metal"):
        for fuse in (True, False):
            model = loaded(llama, fuse=fuse)
            assert all(hasattr(type(layer), "replayed_class") for layer in model.layers)
            assert fused_layers(model) == 10 * fuse
        assert not any(
            hasattr(type(layer), "replayed_class") for layer in loaded(llama, group=Rank(0, [None] * 2)).layers
        )


def test_a_saved_model_is_opened_again(tmp_path, host):
    dense = transformers_model("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    weights = {name: value.numpy() for name, value in dense.state_dict().items()}
    write_folder(tmp_path / "gptq", "gptq", dense.config.to_dict(), weights)
    model, config = load_model(opened(tmp_path / "gptq"), mx.float32, fuse=True)
    expected = answers(model)
    assert fused_layers(model) == 5
    (tmp_path / "saved").mkdir()
    utils.save_config(dict(config), tmp_path / "saved" / "config.json")
    utils.save_model(tmp_path / "saved", model, donate_model=True)
    for fuse in (False, True):
        again = loaded(tmp_path / "saved", fuse=fuse)
        assert all(map(np.array_equal, answers(again), expected))


def test_parts_of_a_model_are_not_fused(llama, monkeypatch, host):
    with pytest.raises(mxd.FormatError, match="fuse: found True with a group of 2 processes, expected False"):
        mxd.lm.load(llama, group=Rank(0, [None] * 2), fuse=True)
    expected = np.array(loaded(llama)(IDS))

    def work(group):
        with mxd.use_backend("host"):
            model = loaded(llama, fuse=True)
            model(IDS[:, :1])
            model.shard(group)
            return np.array(model(IDS)), fused_layers(model)

    for logits, fused in over_threads(2, work, monkeypatch):
        assert np.abs(logits - expected).max() < 5e-5 * np.abs(expected).max()
        assert fused == 0


@pytest.mark.parametrize(
    "keys",
    [
        ["self_attn.q_proj"],
        pytest.param(["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj"], marks=pytest.mark.full),
    ],
    ids=["q", "q, gate, up"],
)
def test_adapters_are_trained(keys, llama, host):
    found = []
    for fuse in (True, False):
        model = loaded(llama, fuse=fuse)
        model.freeze()
        mx.random.seed(1)
        linear_to_lora_layers(model, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": keys})
        for _, layer in model.named_modules():
            if "lora_b" in layer:
                layer.lora_b = mx.random.normal(layer.lora_b.shape) / 100
        mx.eval(model.parameters())
        loss, gradients = nn.value_and_grad(model, lambda model: (model(IDS) ** 2).mean())(model)
        found.append([np.array(model(IDS[:, :1])), np.array(loss), *(np.array(g) for _, g in tree_flatten(gradients))])
        assert fused_layers(model) == 10 * fuse
    assert len(found[0]) == 2 + 2 * 2 * len(keys)
    for one, other in zip(*found, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
