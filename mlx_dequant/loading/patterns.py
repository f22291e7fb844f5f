"""Regular expressions out of configs, matched in bounded time.

Python's own matcher backtracks: `(a+)+$` takes years for a name of a few dozen letters. Here all ways through a pattern
are followed at once. The positions in the text that they have reached are the bits of an integer: bit i stands for
the position before character i.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..errors import FormatError

# Python's parser, whose tree is followed here. The module's name changed in Python 3.11.
_parser: Any = getattr(re, "_parser", None) or import_module("sre_parse")
STEPS = 100_000  # nodes of a pattern that are followed for one text; common patterns take dozens


class _Text:
    """A text on its way through a pattern."""

    def __init__(self, text: str):
        self.text, self.steps = text, 0
        self.all = (2 << len(text)) - 1
        self._places: dict[Fits, int] = {}

    def step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise FormatError(f"found {self.text[:80]!r}, expected a name that is matched in {STEPS} steps")

    def places(self, fits: Fits) -> int:
        """The positions before a character that fits."""
        if fits not in self._places:
            if fits is _any or (fits is _not_a_break and "\n" not in self.text):
                self._places[fits] = self.all >> 1
                return self.all >> 1
            self._places[fits] = sum(1 << at for at, character in enumerate(self.text) if fits(character))
        return self._places[fits]


Fits = Callable[[str], bool]
# From the positions where a part of a pattern may start to those where it may end.
Follow = Callable[[_Text, int], int]


class Pattern:
    """A regular expression of Python's, without references to groups and without looking behind.

    Args:
        text: the expression.

    Raises:
        FormatError: it is not valid, or has what is not supported; in `match` and `search`, it takes too long.
    """

    def __init__(self, text: str):
        try:
            flags = re.compile(text).flags
            self._follow = _sequence(_parser.parse(text), flags)
        except (re.error, RecursionError, OverflowError, NotImplementedError) as error:
            raise FormatError(f"found {text!r}, expected a regular expression: {error}") from None

    def match(self, name: str) -> bool:
        """Whether the start of a name fits."""
        return bool(self._follow(_Text(name), 1))

    def search(self, name: str) -> bool:
        """Whether any part of a name fits."""
        text = _Text(name)
        return bool(self._follow(text, text.all))


def _sequence(tree: Any, flags: int) -> Follow:
    parts: list[Follow] = []
    word = ""  # letters that follow each other are looked for at once
    for kind, value in tree:
        if str(kind) == "LITERAL" and not flags & re.IGNORECASE:
            word += chr(value)
            continue
        parts += [_word(word)] if word else []
        word = ""
        parts.append(_part(str(kind), value, flags))
    parts += [_word(word)] if word else []

    def follow(text: _Text, starts: int) -> int:
        for part in parts:
            if not starts:
                break
            text.step()
            starts = part(text, starts)
        return starts

    return follow


def _word(word: str) -> Follow:
    def follow(text: _Text, starts: int) -> int:
        found, at = 0, text.text.find(word, (starts & -starts).bit_length() - 1)
        while at >= 0:
            found |= 1 << at
            at = text.text.find(word, at + 1)
        return (starts & found) << len(word)

    return follow


def _part(kind: str, value: Any, flags: int) -> Follow:
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            return _character(_fits(kind, value, flags))
        case "BRANCH":
            return _branch([_sequence(tree, flags) for tree in value[1]])
        case "SUBPATTERN":
            _, added, removed, tree = value
            return _sequence(tree, flags & ~removed | added)
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, tree = value
            return _repeat(least, most, tree, flags)
        case "ASSERT" | "ASSERT_NOT" if value[0] > 0:
            return _ahead(_sequence(value[1], flags), kind == "ASSERT_NOT")
        case "AT":
            return _at(str(value), flags)
        case _:
            raise NotImplementedError(f"{kind.lower()} is not supported")


def _character(fits: Fits) -> Follow:
    def follow(text: _Text, starts: int) -> int:
        if starts & starts - 1:
            return (starts & text.places(fits)) << 1
        at = starts.bit_length() - 1
        return starts << 1 if at < len(text.text) and fits(text.text[at]) else 0

    return follow


def _branch(ways: list[Follow]) -> Follow:
    def follow(text: _Text, starts: int) -> int:
        found = 0
        for way in ways:
            found |= way(text, starts)
        return found

    return follow


def _repeat(least: int, most: Any, tree: Any, flags: int) -> Follow:
    once = _sequence(tree, flags)
    endless = most is _parser.MAXREPEAT
    kind, value = tree[0] if len(tree) == 1 else (None, None)
    fits = _fits(str(kind), value, flags) if str(kind) in ("LITERAL", "NOT_LITERAL", "ANY", "IN") else None

    def follow(text: _Text, starts: int) -> int:
        for _ in range(least):
            before, starts = starts, once(text, starts)
            if starts == before:  # and so would it stay
                break
        if endless and fits is not None:  # an addition carries a position through all the characters that fit
            places = text.places(fits)
            return (((starts & places) + places) ^ places) | starts
        found = new = starts
        for _ in range(len(text.text) + 1 if endless else min(most - least, len(text.text) + 1)):
            new = once(text, new) & ~found
            if not new:
                break
            found |= new
        return found

    return follow


def _ahead(way: Follow, negated: bool) -> Follow:
    def follow(text: _Text, starts: int) -> int:
        held = sum(1 << at for at in range(starts.bit_length()) if starts >> at & 1 and way(text, 1 << at))
        return starts & ~held if negated else held

    return follow


def _at(kind: str, flags: int) -> Follow:
    lines = flags & re.MULTILINE
    breaks, word = _fits("LITERAL", ord("\n"), 0), _CATEGORIES["WORD"]

    def follow(text: _Text, starts: int) -> int:
        end = 1 << len(text.text)
        if kind in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return starts & (1 | (text.places(breaks) << 1 if lines and kind == "AT_BEGINNING" else 0))
        if kind == "AT_END_STRING":
            return starts & end
        if kind == "AT_END":
            return starts & (end | (text.places(breaks) if lines else text.places(breaks) & end >> 1))
        boundary = text.places(word) ^ text.places(word) << 1
        return starts & (boundary if kind == "AT_BOUNDARY" else ~boundary)

    return follow


_CATEGORIES: dict[str, Fits] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda character: character.isalnum() or character == "_",
}


def _any(character: str) -> bool:
    return True


def _not_a_break(character: str) -> bool:
    return character != "\n"


def _fits(kind: str, value: Any, flags: int) -> Fits:
    """Whether a character is one of those that a node stands for."""
    if kind == "ANY":
        return _any if flags & re.DOTALL else _not_a_break
    members = value if kind == "IN" else [(kind, value)]
    negated = kind == "NOT_LITERAL" or str(members[0][0]) == "NEGATE"
    tests = [_member(str(name), what) for name, what in members if str(name) != "NEGATE"]

    def fits(character: str) -> bool:
        return any(test(character) for test in tests) != negated

    def folded(character: str) -> bool:
        cases = {character, character.lower(), character.upper()}
        return any(len(each) == 1 and test(each) for each in cases for test in tests) != negated

    return folded if flags & re.IGNORECASE else fits


def _member(kind: str, value: Any) -> Fits:
    if kind == "RANGE":
        first, last = map(chr, value)
        return lambda character: first <= character <= last
    if kind == "CATEGORY":
        category = str(value).removeprefix("CATEGORY_")
        test, wanted = _CATEGORIES[category.removeprefix("NOT_")], not category.startswith("NOT_")
        return lambda character: test(character) == wanted
    return chr(value).__eq__
