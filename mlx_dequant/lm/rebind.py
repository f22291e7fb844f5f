"""Functions of mlx-lm replaced wherever a module holds them."""

from __future__ import annotations

import sys
from typing import Any


def rebind(old: Any, new: Any) -> None:
    """Puts `new` in the place of `old` in every module, also in those that did `from mlx_lm.utils import ...`."""
    for module in list(sys.modules.values()):
        names = [name for name, value in list(getattr(module, "__dict__", {}).items()) if value is old]
        for name in names:
            setattr(module, name, new)
