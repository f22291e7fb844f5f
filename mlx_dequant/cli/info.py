"""Say what a GGUF file holds: its metadata, and its tensors by type."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, printable, size, write_json

if TYPE_CHECKING:
    from ..loading.gguf_file import GGUFFile


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .gguf file, or any part of a split one")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from rich.table import Table

    from ..loading.gguf_file import GGUFFile

    file = GGUFFile(options.file)
    result = describe(file)
    out = console(options)
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    for key, value in result["metadata"].items():
        table.add_row(printable(key), _shown(value))
    out.print(table)

    table = Table("type", "tensors", "weights", "size", "bits a weight", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result["types"]:
        table.add_row(*_cells(row["type"], row["tensors"], row["weights"], row["bytes"]))
    table.add_row(*_cells("all", len(result["tensors"]), result["weights"], result["bytes"]))
    out.print()
    out.print(table)
    for kind, why in result["unread"].items():
        out.print(f"\n{printable(kind)} tensors cannot be read: {why}", soft_wrap=True)
    write_json(options, result)
    return 0


def _cells(name: str, tensors: int, weights: int, nbytes: int) -> tuple[str, ...]:
    return name, f"{tensors:,}", f"{weights:,}", size(nbytes), f"{8 * nbytes / weights:.3g}" if weights else ""


def describe(file: GGUFFile) -> dict[str, Any]:
    """What the command prints, as JSON has it; arrays of the metadata are given as their length."""
    tensors: list[dict[str, Any]] = [
        {"name": info.name, "type": info.type.title, "shape": list(info.shape), "bytes": info.nbytes}
        for info in file.tensors.values()
    ]
    types: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        row = types.setdefault(tensor["type"], {"type": tensor["type"], "tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += math.prod(tensor["shape"])
        row["bytes"] += tensor["bytes"]
    unread = {info.type.title: info.type.missing for info in file.tensors.values() if not info.type.readable}
    return {
        "file": str(file.path),
        "version": file.version,
        "metadata": {key: _plain(file.metadata[key]) for key in file.metadata},
        "types": list(types.values()),
        "weights": sum(row["weights"] for row in types.values()),
        "bytes": sum(row["bytes"] for row in types.values()),
        "tensors": tensors,
        "unread": unread,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return {"length": len(value)}


def _shown(value: Any) -> str:
    return f"{value['length']:,} values" if isinstance(value, dict) else printable(str(value), 60)
