"""GPT-2 as the Hub has it: names without a prefix, masks among the weights, a copy of the embedding."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_models import difference  # noqa: E402
from lm_zoo import opened, write  # noqa: E402

from mlx_dequant.nn import PackedLinear  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (1, 24))


def test_names_of_the_hub(tmp_path):
    theirs = write(tmp_path / "model", "gpt2", 4)
    path = str(tmp_path / "model" / "model.safetensors")
    tensors = {name.removeprefix("transformer."): array for name, array in mx.load(path).items()}
    masks = {f"h.{at}.attn.{name}": mx.ones((1, 1, 8, 8)) for at in range(3) for name in ("bias", "masked_bias")}
    mx.save_safetensors(path, tensors | masks | {"lm_head.weight": tensors["wte.weight"]})
    ours = opened(tmp_path / "model")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    assert difference(np.array(ours(mx.array(IDS))), expected) < 5e-5
    assert sum(isinstance(layer, PackedLinear) for _, layer in ours.named_modules()) == 12
