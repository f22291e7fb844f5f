"""What is made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
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
        if found is None:
            if len(self) >= self.limit:
                self.clear()
            found = self[key] = make()
        return found
