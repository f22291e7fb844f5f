"""Tiny models of many types, as transformers 4 and 5 write them: logits against transformers."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_models import difference  # noqa: E402
from lm_zoo import VOCABULARY, ZOO, opened, write  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 40))
REFUSED = {
    "deepseek_v2 plain": r"rope_scaling.rope_type: found 'default', expected yarn in a deepseek_v2",
}
# Two that no other test has, and that need a window and an activation of ours.
QUICK = ("gemma2", "gemma")


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in ZOO])
def test_a_type_computes_what_transformers_does(name, version, tmp_path):
    theirs = write(tmp_path / "model", name, version)
    if name in REFUSED:
        with pytest.raises(mxd.FormatError, match=REFUSED[name]):
            opened(tmp_path / "model")
        return
    found = np.array(opened(tmp_path / "model")(mx.array(IDS)))
    assert difference(found, logits(theirs)) < 5e-5


def test_at_least_24_are_right():
    assert len({kind for name, (kind, _) in ZOO.items() if name not in REFUSED}) >= 30


@pytest.mark.parametrize("name", ["gemma2", pytest.param("qwen2", marks=pytest.mark.full)])
def test_a_prompt_in_parts_sees_the_same_windows(name, tmp_path):
    from mlx_lm.models.cache import make_prompt_cache

    model = opened(write_only(tmp_path / "model", name))
    whole = np.array(model(mx.array(IDS)))
    cache = make_prompt_cache(model)
    cuts = [0, 17, *range(18, IDS.shape[1] + 1)]
    parts = [np.array(model(mx.array(IDS[:, a:b]), cache=cache)) for a, b in pairwise(cuts)]
    assert difference(np.concatenate(parts, axis=1), whole) < 5e-5
    cache = make_prompt_cache(model, max_kv_size=16)  # forgets all but the last 16
    parts = [np.array(model(mx.array(IDS[:, a:b]), cache=cache)) for a, b in pairwise(cuts)]
    assert all(np.isfinite(part).all() for part in parts)


def write_only(path, name):
    write(path, name, 5)
    return path
