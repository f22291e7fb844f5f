"""GGUF files of gated delta nets, latent attention and others: logits against transformers with the same weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_gguf_families import FILES, model_of, write_family  # noqa: E402
from lm_models import VOCABULARY  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 40))
QUICK = ("qwen35",)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest one, as a share of the largest logit."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FILES]
)
def test_an_architecture_computes_what_transformers_does(name, tmp_path):
    from mlx_lm.models.cache import make_prompt_cache

    theirs = model_of(name)
    write_family(tmp_path / "model.gguf", name, theirs)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    theirs.set_experts_implementation("eager")
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(IDS)).logits.numpy()
    if name.startswith("gemma"):  # whose last layers use keys of others
        assert difference(np.array(model(mx.array(IDS))), expected) < 5e-5
    cache = make_prompt_cache(model)
    parts = [model(mx.array(IDS[:, a:b]), cache=cache) for a, b in ((0, 30), (30, 39), (39, 40))]
    assert difference(np.concatenate([np.array(part) for part in parts], axis=1), expected) < 5e-5
