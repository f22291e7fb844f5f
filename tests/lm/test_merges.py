"""Merges of a vocabulary without any: derived once, then read from the cache where they fit."""

import numpy as np
import pytest

from mlx_dequant.lm import merges, tokenizer_cache

VOCABULARY = {token: number for number, token in enumerate(("the", "t", "h", "e", "th", "he", "éh", "é", "thé", ""))}
EXPECTED = [("th", "e"), ("t", "h"), ("h", "e"), ("é", "h"), ("th", "é")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache, for small vocabularies too."""
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(merges, "MANY", 1)
    return tmp_path / "tokenizers"


def test_the_last_merge_of_each_token_by_its_number():
    assert merges.merges(VOCABULARY) == EXPECTED  # "th" comes before "he", so "t", "he" never meet


def test_scores_come_before_numbers():
    scores = np.zeros(len(VOCABULARY), np.float32)
    scores[[VOCABULARY["thé"], VOCABULARY["he"]]] = 2, 1
    found = merges.merges(VOCABULARY, scores)
    assert found == [EXPECTED[4], EXPECTED[2], ("t", "he"), EXPECTED[1], EXPECTED[3]]


def test_what_begins_as_something_else_keeps_all_merges():
    found = merges.merges(VOCABULARY, others=["h"])
    assert found == [("t", "he"), *EXPECTED]
    without = {token: number for token, number in VOCABULARY.items() if token != "e"}
    assert merges.merges(without | {"e̱": 3}) == [("t", "he"), ("t", "h"), ("é", "h"), ("th", "é")]


@pytest.mark.parametrize("seed", range(40))
def test_texts_are_cut_as_with_every_merge(seed):
    tokenizers = pytest.importorskip("tokenizers")
    rng = np.random.default_rng(seed)
    letters, unknown, byte = "abc<0x41>", "<0x", "<0x41>"
    words = ["".join(rng.choice(list("abbc")) for _ in range(12)) + byte for _ in range(12)]
    parts = {word[at : at + size] for word in words for at, size in rng.integers(0, (16, 7), (12, 2)).tolist()}
    tokens = sorted({*letters, unknown, byte, *parts} - {"", *letters[: seed % 2]})
    rng.shuffle(tokens)
    vocabulary = {str(token): number for number, token in enumerate(tokens)}
    scores = rng.integers(-9, 9, len(tokens)) if seed % 3 else None
    cuts = []
    for happening in (None, merges._happening):
        with pytest.MonkeyPatch.context() as patch:
            if not happening:
                patch.setattr(merges, "_happening", lambda vocabulary, table, others: np.ones(len(table), np.bool_))
            patch.setattr(merges, "MANY", 1 << 14)
            found = merges.merges(vocabulary, scores, [byte, unknown])
        model = tokenizers.models.BPE(vocabulary, found, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        tokenizer = tokenizers.Tokenizer(model)
        texts = np.random.default_rng(seed).choice([*"abc", "A", "é", byte, "abc", "cab"], (50, 30))
        cuts.append((len(found), [tokenizer.encode("".join(text)).ids for text in texts]))
    (every, expected), (some, cut) = cuts
    assert cut == expected
    assert some < every


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
