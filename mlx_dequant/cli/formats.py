"""List the supported formats.

For GGUF: the weights and the bytes of a block, and ggml's number of the type. For the others: the
bits of a code; scales and zero points come on top.
"""

from __future__ import annotations

import argparse

from ..diagnostics.output import add_json, console, write_json


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rich.table import Table

    from ..registry import formats

    table = Table("format", "name", "block", "bytes", "bits", "ggml type", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for form in formats().values():
        counts = (form.weights, form.bytes, form.bits)
        kind = str(form.ggml_type) if form.family == "gguf" else ""
        table.add_row(form.title, form.name, *(str(count) if count else "" for count in counts), kind)
    console(options).print(table)
    write_json(options, [asdict(form) | {"title": form.title} for form in formats().values()])
    return 0
