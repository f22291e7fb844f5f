"""Folders as publishers write them, beside transformers: copies of the embedding, scales, norms in 16 bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_models import difference  # noqa: E402
from lm_zoo import VOCABULARY, opened, write  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 24))


def stored(path):
    return dict(mx.load(str(path / "model.safetensors")))


def compare(path, theirs):
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    assert difference(np.array(opened(path)(mx.array(IDS))), expected) < 5e-5


@pytest.mark.parametrize("name", ["gemma", "cohere2", "llama tied"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside the embedding", "in its place"])
def test_an_output_layer_that_is_the_embedding(name, beside, tmp_path):
    theirs = write(tmp_path, name, 5)
    tensors = stored(tmp_path)
    tensors["lm_head.weight"] = (
        tensors["model.embed_tokens.weight"] if beside else tensors.pop("model.embed_tokens.weight")
    )
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    compare(tmp_path, theirs)


def test_scales_of_quantized_attention(tmp_path):
    theirs = write(tmp_path, "llama", 5)
    tensors = stored(tmp_path)
    for part in ("k_scale", "v_scale", "q_scale", "kv_scale"):
        tensors[f"model.layers.0.self_attn.{part}"] = mx.array(0.5)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    compare(tmp_path, theirs)


def test_norms_in_16_bits(tmp_path):
    """Qwen3-Next's files have norms less 1, and mlx-lm adds it: in float32."""
    theirs = write(tmp_path, "qwen3_next", 5)
    norms = {name: array for name, array in stored(tmp_path).items() if name.endswith("norm.weight")}
    assert norms
    tensors = stored(tmp_path) | {name: array.astype(mx.bfloat16) for name, array in norms.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name in norms:
                parameter.copy_(parameter.bfloat16().float())
    compare(tmp_path, theirs)
