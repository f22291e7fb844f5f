"""Compare MLX and torch on this machine: quantized weights dequantized, multiplied with, looked up and bridged.

Every provider is checked first, and one with a wrong result is not timed. Times are
medians of rounds in which all take turns, in an order that changes; a copy of as many bytes runs in
the same rounds, and is what GB/s are compared with.

`mlx-dequant bench decode` compares whole language models, by tokens a second.

Exit status: 0; 1 where one of our own backends is wrong; 2 for a wrong argument or file.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..bench import decode
from ..bench import options as arguments_of

DECODE = """Compare whole language models on this machine, by tokens a second.

Models of a known shape have random weights, and one embedding and output layer for all. Times are
medians of rounds in which all models take turns, in an order that changes.
"""


class _Subcommand(argparse._SubParsersAction):  # pyright: ignore[reportMissingTypeArgument]
    """Refuses options in front of the subcommand, which does not know them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for action in parser._actions:
            if action.option_strings and getattr(namespace, action.dest, action.default) != action.default:
                parser.error(f"found {action.option_strings[0]} before {values[0]}, expected it after, if at all")
        super().__call__(parser, namespace, values, option_string)


def arguments(parser: argparse.ArgumentParser) -> None:
    arguments_of.add(parser)
    # In a shell, options with several values would take the subcommand for one.
    parts = parser.add_subparsers(title="whole models", metavar="decode", action=_Subcommand)
    part = parts.add_parser(
        "decode",
        help=DECODE.partition("\n")[0],
        description=DECODE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    decode.add(part)
    part.set_defaults(run=decode.run)


def run(options: argparse.Namespace) -> int:
    from ..bench.command import run

    return run(options)
