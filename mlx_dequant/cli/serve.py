"""Serve a quantized language model over HTTP, as OpenAI's API does: mlx-lm's server.

Takes the options of mlx_lm.server after the model: --host, --port, --adapter-path, --draft-model,
--max-tokens, --temp, ... `mlx-dequant serve MODEL --help` lists them.

Needs mlx-lm: pip install 'mlx-dequant[lm]'. Exit status: 2 for a model that cannot be loaded.
"""

from __future__ import annotations

import argparse

from .chat import add_options, command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(options: argparse.Namespace) -> int:
    return command("server", options)
