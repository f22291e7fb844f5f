"""mlx-lm's commands, with the hook in."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .hook import install, installed, uninstall


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs `mlx_lm.COMMAND` ("server", "chat", "generate", "lora", "fuse", "benchmark", ...) in this process.

    Raises:
        SystemExit: mlx-lm's own, for wrong arguments and --help.
    """
    from mlx_lm import cli

    before, mine = sys.argv, not installed()
    if mine:
        install()
    sys.argv = [f"mlx_lm.{command}", command, *arguments]
    try:
        cli.main()
    finally:
        sys.argv = before
        if mine:
            uninstall()
