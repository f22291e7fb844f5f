"""Tokens a second of a model: only where its answers are right, and beside what a user would pick."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mlx_lm", reason="models are mlx-lm's")

import mlx_dequant as mxd
from mlx_dequant.bench.cases import generation

TOKENIZER = SimpleNamespace(apply_chat_template=lambda question, add_generation_prompt: [1, 2, 3])


@pytest.fixture
def rows(monkeypatch):
    """Rows of models that answer as given, each faster than the last time."""

    def run(quantized: list[int], dense: list[int], on_gpu: bool = False):
        asked: list[tuple[str, int]] = []

        def answer(model, prompt, count):
            asked.append((model, count))
            return (quantized if model == "quantized" else dense), float(len(asked))

        monkeypatch.setattr(mxd.lm, "load", lambda file, dtype: ("quantized", TOKENIZER))
        monkeypatch.setattr(generation, "dense_model", lambda file, dtype: f"dense {dtype}")
        monkeypatch.setattr(generation, "_answer", answer)
        monkeypatch.setattr(generation, "find_spec", lambda name: None)
        monkeypatch.setattr(mxd, "current_backend", lambda: "cuda" if on_gpu else "host", raising=False)
        return generation.rows(Path("model.gguf"), tokens=40, rounds=2), asked

    return run


def test_a_right_model_is_timed_in_turn_with_dense_float32(rows):
    found, asked = rows([7, 8], [7, 8])
    assert [(row["provider"], row["format"], row["status"]) for row in found] == [
        ("mlx-dequant", "gguf", "timed"),
        ("MLX dense", "float32", "timed"),
    ]
    # Checked over ten tokens, then two rounds; the best counts.
    assert [count for _, count in asked] == [10, 10, 40, 10, 40, 10]
    assert [row["decode_tokens_per_second"] for row in found] == [5.0, 6.0]


def test_a_gpu_is_compared_with_dense_float16_too(rows):
    found, _ = rows([7], [7], on_gpu=True)
    assert [row["format"] for row in found] == ["gguf", "float32", "float16"]


def test_a_wrong_model_has_no_time(rows):
    found, asked = rows([7, 8], [7, 9])
    assert {(row["status"], row["decode_tokens_per_second"]) for row in found} == {("wrong", None)}
    assert len(asked) == 2
