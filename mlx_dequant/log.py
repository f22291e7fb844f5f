"""The package's logger, `mlx_dequant`: quiet unless the program or MLX_DEQUANT_LOG asks for it."""

from __future__ import annotations

import logging
import os

LEVELS = ("debug", "info", "warning")

logger = logging.getLogger("mlx_dequant")


def _set_up(level: str) -> None:
    """Prints messages from a level on to standard error; "" prints none."""
    logger.addHandler(logging.NullHandler())
    if not level:
        return
    if level not in LEVELS:
        raise ValueError(f"MLX_DEQUANT_LOG: found {level!r}, expected one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())


_set_up(os.environ.get("MLX_DEQUANT_LOG", ""))
