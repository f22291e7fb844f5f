"""The merges of a SentencePiece vocabulary: files have only the tokens and their scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import tokenizer_cache

KIND = "merges-1"  # of entries in the cache; another number where other merges are derived
MANY = 1 << 14  # tokens: fewer are derived as quickly as they are read
LONGEST = 1 << 30  # the squared lengths of all tokens together, which are tried for merges; models have some 20 million


def merges(vocabulary: Mapping[str, int], scores: Any = None) -> list[tuple[str, str]]:
    """Every pair of tokens that together are a token, by the score of that token.

    They are kept in the cache: a vocabulary of 262,144 tokens takes a second or more.

    Args:
        vocabulary: the tokens and their numbers.
        scores: one for each number; the best is merged first. Without them, the lowest number is.

    Raises:
        ValueError: the tokens are too long together, or there are too few scores.
    """
    lengths = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))
    if lengths @ lengths > LONGEST:
        raise ValueError(f"tokenizer.ggml.tokens: found one of {lengths.max()} letters, expected shorter ones")
    texts = dict(zip(vocabulary.values(), vocabulary, strict=True))
    count = max(texts, default=-1) + 1
    ranks = np.arange(count, dtype=np.float64) if scores is None else -_scores(scores, count)
    key = _key(texts, lengths, ranks)
    pairs = _read(key, texts, count) if count >= MANY else None
    if pairs is None:
        pairs = _derived(vocabulary, ranks)
        if count >= MANY:
            tokenizer_cache.write(KIND, key, pairs.tobytes())
    left, right = pairs.T.tolist()
    return list(zip(map(texts.__getitem__, left), map(texts.__getitem__, right), strict=True))


def _scores(scores: Any, count: int) -> np.ndarray:
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or len(found) < count:
        raise ValueError(f"tokenizer.ggml.scores: found {found.size}, expected one for each of {count} tokens")
    return found


def _key(texts: Mapping[int, str], lengths: np.ndarray, ranks: np.ndarray) -> str:
    """A hash of all that the merges depend on."""
    key = hashlib.sha256()
    numbers = np.fromiter(texts, np.uint32, len(texts))
    letters = "".join(texts.values()).encode("utf-8", "surrogatepass")
    for part in (lengths.tobytes(), numbers.tobytes(), ranks.tobytes(), letters):
        key.update(len(part).to_bytes(8, "little"))
        key.update(part)
    return key.hexdigest()


def _read(key: str, texts: Mapping[int, str], count: int) -> np.ndarray | None:
    """Pairs of tokens from the cache, uint32 [n, 2]."""
    content = tokenizer_cache.read(KIND, key)
    if content is None or len(content) % 8:
        return None
    pairs = np.frombuffer(content, np.uint32).reshape(-1, 2)
    known = np.zeros(count, np.bool_)
    known[list(texts)] = True
    return pairs if pairs.max(initial=0) < count and known[pairs].all() else None


def _derived(vocabulary: Mapping[str, int], ranks: np.ndarray) -> np.ndarray:
    """Those pairs, derived: every way to cut a token into two."""
    found: list[tuple[int, int, int]] = []
    number_of = vocabulary.get
    for token, number in vocabulary.items():
        for at in range(1, len(token)):
            left = number_of(token[:at])
            if left is not None:
                right = number_of(token[at:])
                if right is not None:
                    found.append((number, left, right))
    made, left, right = np.array(found, np.uint32).reshape(-1, 3).T
    order = np.lexsort((right, left, made, ranks[made]))
    return np.stack([left[order], right[order]], 1)
