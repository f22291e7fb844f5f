"""GGUF files of many architectures, in mixed types: logits against transformers with the dequantized weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_gguf import FILES, table, transformers_model, write_gguf  # noqa: E402
from lm_models import VOCABULARY, difference  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 40))
# One with joined layers, a window and factors of wavelengths; one with norms a head and half a head that turns.
QUICK = ("phi3, longrope", "stablelm2-12b")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FILES]
)
def test_an_architecture_computes_what_transformers_does(name, tmp_path):
    theirs = transformers_model(name)
    write_gguf(tmp_path / "model.gguf", name, theirs)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    assert difference(np.array(model(mx.array(IDS))), expected) < 5e-5


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["phi3, longrope", "gemma2", "ministral3", "olmo3", "exaone4", "stablelm2-12b", "lfm2"]
)
def test_a_packed_folder_computes_the_same(name, tmp_path):
    """The settings that are written are read back."""
    write_gguf(tmp_path / "model.gguf", name, transformers_model(name))
    mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "folder")
    found, expected = (
        mxd.lm.load(tmp_path / path, dtype=mx.float32)[0](mx.array(IDS)) for path in ("folder", "model.gguf")
    )
    assert np.array_equal(np.array(found), np.array(expected))


def test_the_documentation_has_what_is_compared_and_nothing_is_uncompared():
    from mlx_dequant.lm.gguf_architectures import ARCHITECTURES

    rows = table()
    assert {row.split("|")[1].strip() for row in rows} == set(ARCHITECTURES)
    page = (Path(__file__).parents[2] / "docs" / "mlx-lm.md").read_text()
    head = "| architecture of the file | model types |\n|---|---|\n"
    assert head + "\n".join(rows) + "\n" in page
