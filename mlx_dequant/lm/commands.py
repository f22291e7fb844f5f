"""mlx-lm's commands, with the hook in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from .hook import install, installed, uninstall
from .ranks import end_with_generation, everybody, one_voice, together

# Commands that only ask a model: its layers may share products.
ASKING = ("benchmark", "chat", "generate", "perplexity", "server")


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs `mlx_lm.COMMAND` ("server", "chat", "generate", "lora", "fuse", "benchmark", ...) in this process.

    Where commands only ask a model, layers that take the same x share one product.
    Over the processes of `mlx.launch`, "generate" shares the model among them, as server, chat and benchmark do.

    Raises:
        SystemExit: mlx-lm's own, for wrong arguments and --help.
        ConnectionError: another of the processes ended.
    """
    from mlx_lm import cli

    group = everybody()
    shares = command == "generate" and group.size() > 1
    before, mine = sys.argv, shares or not installed()
    if mine:
        fuse = command in ASKING and group.size() == 1
        install(group=group if shares else None, fuse=fuse)
    sys.argv = [f"mlx_lm.{command}", command, *arguments]
    try:
        with together(group), one_voice(group) if shares else nullcontext():
            if command == "server":
                end_with_generation(group)
                _make_cache()
            cli.main()
    finally:
        sys.argv = before
        if mine:
            uninstall()


def _make_cache() -> None:
    """Makes the folder of the Hub's models: without one, the server has no answer when it is asked for its models."""
    from huggingface_hub import constants

    with suppress(OSError):
        Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
