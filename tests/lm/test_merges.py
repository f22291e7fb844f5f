"""Merges of a vocabulary without any: derived once, then read from the cache where they fit."""

import numpy as np
import pytest

from mlx_dequant.lm import merges, tokenizer_cache

VOCABULARY = {token: number for number, token in enumerate(("the", "t", "h", "e", "th", "he", "éh", "é", "thé", ""))}
EXPECTED = [("t", "he"), ("th", "e"), ("t", "h"), ("h", "e"), ("é", "h"), ("th", "é")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache, for small vocabularies too."""
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(merges, "MANY", 1)
    return tmp_path / "tokenizers"


def test_every_cut_of_a_token_by_its_number():
    assert merges.merges(VOCABULARY) == EXPECTED


def test_scores_come_before_numbers():
    scores = np.zeros(len(VOCABULARY), np.float32)
    scores[[VOCABULARY["thé"], VOCABULARY["he"]]] = 2, 1
    assert merges.merges(VOCABULARY, scores) == [EXPECTED[5], EXPECTED[3], *EXPECTED[:3], EXPECTED[4]]


def test_they_are_derived_once(folder, monkeypatch):
    first = merges.merges(VOCABULARY)
    monkeypatch.setattr(merges, "_derived", None)
    assert merges.merges(VOCABULARY) == first
    assert len([*folder.iterdir()]) == 1


def test_the_key_is_all_that_they_depend_on(folder):
    merges.merges(VOCABULARY)
    merges.merges(VOCABULARY, np.zeros(len(VOCABULARY)))
    merges.merges(VOCABULARY, np.ones(len(VOCABULARY)))
    merges.merges(VOCABULARY | {"x": 10})
    merges.merges({("th" if token == "t" else "t" if token == "th" else token): at for token, at in VOCABULARY.items()})
    merges.merges({token: at + 1 for token, at in VOCABULARY.items()})
    merges.merges({"ab": 0, "c": 1})
    merges.merges({"a": 0, "bc": 1})
    assert len([*folder.iterdir()]) == 8


@pytest.mark.parametrize("content", [b"\0" * 4, np.array([1, 99], np.uint32).tobytes(), b"\1" * 8])
def test_what_are_no_tokens_is_derived_again(folder, content, monkeypatch):
    monkeypatch.setattr(tokenizer_cache, "read", lambda kind, key: content)
    assert merges.merges(VOCABULARY) == EXPECTED


def test_few_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(merges, "MANY", 1 << 14)
    merges.merges(VOCABULARY)
    assert not folder.exists()


@pytest.mark.parametrize(("scores", "found"), [([0.0] * 9, "found 9"), (3.0, "found 1"), ([[0.0] * 10], "found 10")])
def test_too_few_scores(scores, found):
    with pytest.raises(ValueError, match=rf"tokenizer.ggml.scores: {found}, expected one for each of 10 tokens"):
        merges.merges(VOCABULARY, scores)


def test_tokens_that_are_too_long(monkeypatch):
    monkeypatch.setattr(merges, "LONGEST", 20)
    with pytest.raises(ValueError, match=r"tokenizer.ggml.tokens: found one of 3 letters, expected shorter ones"):
        merges.merges(VOCABULARY)
