"""What is made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count
from typing import TypeVar

Made = TypeVar("Made")


class Kept(dict[Hashable, Made]):
    """What was made, by key. Prompts come in many lengths: where there is more than `limit`, it begins anew."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def of(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for that key before; else what `make` makes."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def put(self, key: Hashable, made: Made) -> Made:
        """Keeps it in the place of what was made for that key before."""
        if len(self) >= self.limit:
            self.clear()
        self[key] = made
        return made


class Numbers:
    """A number for each key, the same one for equal keys: quicker to look up by than they are."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._next = count()

    def of(self, key: Hashable) -> int:
        """The number of a key."""
        return self._known.setdefault(key, next(self._next))
