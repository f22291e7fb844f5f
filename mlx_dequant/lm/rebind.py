"""Functions of mlx-lm replaced wherever a module holds them."""

from __future__ import annotations

import sys
from typing import Any


def rebind(*pairs: tuple[Any, Any]) -> None:
    """Puts the second of each pair in the place of the first in every module, also in those that did
    `from mlx_lm.utils import ...`."""
    replaced = {id(old): new for old, new in pairs}
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in replaced:
                setattr(module, name, replaced[id(value)])
