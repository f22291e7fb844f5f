"""Compare MLX and torch on this machine: quantized weights dequantized, multiplied with, looked up and bridged.

Every provider is checked first, and one with a wrong result is not timed. Times are
medians of rounds in which all take turns, in an order that changes; a copy of as many bytes runs in
the same rounds, and is what GB/s are compared with.

Exit status: 0; 1 where one of our own backends is wrong; 2 for a wrong argument or file.
"""

from __future__ import annotations

import argparse

from ..bench import options as arguments_of


def arguments(parser: argparse.ArgumentParser) -> None:
    arguments_of.add(parser)


def run(options: argparse.Namespace) -> int:
    from ..bench.command import run

    return run(options)
