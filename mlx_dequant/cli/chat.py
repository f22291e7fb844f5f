"""Chat with a quantized language model in the terminal: mlx-lm's chat.

Takes the options of mlx_lm.chat after the model: --system-prompt, --temp, --top-p, --seed, --adapter-path,
--max-tokens, ... `mlx-dequant chat MODEL --help` lists them.

Needs mlx-lm: pip install 'mlx-dequant[lm]'. Exit status: 0; 2 for a model that cannot be loaded.
"""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(options: argparse.Namespace) -> int:
    return command("chat", options)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a .gguf file, a folder with safetensors, or REPO or REPO:FILE.gguf of the Hub"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTION", help="an option of mlx-lm's command")


def command(name: str, options: argparse.Namespace) -> int:
    """Runs a command of mlx-lm that takes a model."""
    try:
        from ..lm.commands import run
    except ImportError as error:
        raise OSError(str(error)) from None
    run(name, ["--model", options.model, *options.options])
    return 0
