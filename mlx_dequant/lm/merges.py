"""The merges of a SentencePiece vocabulary: files have only the tokens and their scores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from . import tokenizer_cache

KIND = "merges-2"  # of entries in the cache; another number where other merges are derived
MANY = 1 << 14  # tokens: fewer are derived as quickly as they are read
LONGEST = 1 << 30  # the squared lengths of all tokens together, which are tried for merges; models have some 20 million


def merges(vocabulary: Mapping[str, int], scores: Any = None, others: Collection[str] = ()) -> list[tuple[str, str]]:
    """The pairs of tokens that together are a token, by the score of that token, but for pairs that never meet.

    They are kept in the cache: a vocabulary of 262,144 tokens takes seconds.

    Args:
        vocabulary: the tokens and their numbers.
        scores: one for each number; the best is merged first. Without them, the lowest number is.
        others: tokens that stand for what is no token, such as single bytes.

    Raises:
        ValueError: the tokens are too long together, or there are too few scores.
    """
    lengths = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))
    if lengths @ lengths > LONGEST:
        raise ValueError(f"tokenizer.ggml.tokens: found one of {lengths.max()} letters, expected shorter ones")
    numbers = np.fromiter(vocabulary.values(), np.uint32, len(vocabulary))
    count = max(vocabulary.values(), default=-1) + 1
    ranks = np.arange(count, dtype=np.float64) if scores is None else -_scores(scores, count)
    key = _key(vocabulary, lengths, numbers, ranks, others)
    pairs = _read(key, numbers, count) if count >= MANY else None
    if pairs is None:
        pairs = _derived(vocabulary, ranks, others)
        if count >= MANY:
            tokenizer_cache.write(KIND, key, pairs.tobytes())
    texts = np.empty(count, np.object_)
    texts[numbers] = list(vocabulary)
    left, right = texts[pairs.T].tolist()
    return list(zip(left, right, strict=True))


def _scores(scores: Any, count: int) -> np.ndarray:
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or len(found) < count:
        raise ValueError(f"tokenizer.ggml.scores: found {found.size}, expected one for each of {count} tokens")
    return found


def _key(*parts: np.ndarray | Collection[str]) -> str:
    """A hash of all that the merges depend on."""
    key = hashlib.sha256()
    for each in parts:
        part = each.tobytes() if isinstance(each, np.ndarray) else "".join(each).encode("utf-8", "surrogatepass")
        key.update(len(part).to_bytes(8, "little"))
        key.update(part)
    return key.hexdigest()


def _read(key: str, numbers: np.ndarray, count: int) -> np.ndarray | None:
    """Pairs of tokens from the cache, uint32 [n, 2]."""
    content = tokenizer_cache.read(KIND, key)
    if content is None or len(content) % 8:
        return None
    pairs = np.frombuffer(content, np.uint32).reshape(-1, 2)
    known = np.zeros(count, np.bool_)
    known[numbers] = True
    return pairs if pairs.max(initial=0) < count and known[pairs].all() else None


def _derived(vocabulary: Mapping[str, int], ranks: np.ndarray, others: Collection[str]) -> np.ndarray:
    """Those pairs, derived: every way to cut a token into two that ever happens."""
    found: list[tuple[int, int, int]] = []
    number_of = vocabulary.get
    for token, number in vocabulary.items():
        for at in range(1, len(token)):
            left = number_of(token[:at])
            if left is not None:
                right = number_of(token[at:])
                if right is not None:
                    found.append((number, left, right))
    table = np.array(found, np.uint32).reshape(-1, 3)
    made, left, right = table.T
    table = table[np.lexsort((right, left, made, ranks[made]))]
    return table[_happening(vocabulary, table, others), 1:]


def _happening(vocabulary: Mapping[str, int], table: np.ndarray, others: Collection[str]) -> np.ndarray:
    """Which merges, best first, ever happen.

    Until a token is made, no merge crosses its ends. So all that is merged within it is the same in every text, and its
    last merge is, too: that of its own letters. Tokens with `others` within, or with letters that are no tokens, can
    begin as something else, and keep all merges.

    Args:
        table: [n, 3], the token made, and the two it is made of.
    """
    made = table[:, 0]
    happening = np.ones(len(table), np.bool_)
    ways = np.bincount(made)
    numbers = set(np.flatnonzero(ways > 1).tolist())
    is_other = re.compile("|".join(map(re.escape, others)) or "(?!)").search
    of_length: dict[int, list[tuple[int, list[int]]]] = {}
    for token, number in vocabulary.items():
        if number in numbers and not is_other(token):
            letters = [vocabulary.get(letter, -1) for letter in token]
            if min(letters) >= 0:
                of_length.setdefault(len(token), []).append((number, letters))
    several = np.zeros(len(ways), np.bool_)
    last: list[np.ndarray] = []
    merges = _Merges(table)
    for words in of_length.values():
        tokens, letters = zip(*words, strict=True)
        several[list(tokens)] = True
        last.append(merges.last(np.array(letters)))
    happening[several[made]] = False
    if last:
        taken = np.concatenate(last)
        happening[taken[taken < len(table)]] = True
    return happening


class _Merges:
    """What byte pair encoding does to many words at once. The number of a merge, best first, is its rank."""

    def __init__(self, table: np.ndarray):
        self.made = table[:, 0].astype(np.int64)
        keys = self._keys(table[:, 1], table[:, 2])
        self.ranks = np.argsort(keys)
        self.keys = keys[self.ranks]

    @staticmethod
    def _keys(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left.astype(np.int64) << 32 | right

    def rank(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The ranks of pairs of tokens; n, of which there is none, where they do not merge."""
        keys = self._keys(left, right)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.ranks[at], len(self.keys))

    def last(self, words: np.ndarray) -> np.ndarray:
        """The rank of the merge that makes one token of each word, for words [n, length]; n as for `rank`."""
        ranks = self.rank(words[:, :-1], words[:, 1:])
        every = np.arange(len(words))
        best = ranks[every, 0]
        for length in range(words.shape[1], 2, -1):
            at = ranks.argmin(1)
            best = ranks[every, at]
            going = best < len(self.made)  # others stay several tokens
            words, ranks, at, every = words[going], ranks[going], at[going], every[: going.sum()]
            words = np.take_along_axis(words, _without(length, at + 1), 1)
            words[every, at] = self.made[best[going]]
            ranks = np.take_along_axis(ranks, _without(length - 1, at), 1)
            for first in (at - 1, at):
                rows = every[(first >= 0) & (first < length - 2)]
                places = first[rows]
                ranks[rows, places] = self.rank(words[rows, places], words[rows, places + 1])
            best = ranks[:, 0]
        return best


def _without(length: int, at: np.ndarray) -> np.ndarray:
    """[n, length - 1]: for each n, the places 0 ... length - 1 without at[n]."""
    places = np.arange(length - 1)
    return places + (places >= at[:, None])
