"""Say what a checkpoint holds: a GGUF file's metadata and its tensors by type, or a folder's layers by format.

Of a folder, one layer of each format, settings and shape is read, to see that it can be. What cannot be read is named.
Exit status: 0; 2 for a file or folder that cannot be opened.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, printable, size, write_json

if TYPE_CHECKING:
    from ..loading.gguf_file import GGUFFile

NAMED = 5  # layers that are named for each cause; --json names them all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="a .gguf file, any part of a split one, or a folder with safetensors"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    return _folder(options) if Path(options.file).is_dir() else _gguf(options)


def _gguf(options: argparse.Namespace) -> int:
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


def _folder(options: argparse.Namespace) -> int:
    from rich.table import Table

    from ..loading.overview import kinds

    method, model, found = kinds(Path(options.file))
    rows = [
        {
            "type": kind.title,
            "shape": list(kind.shape) if kind.shape else None,
            "count": len(kind.names),
            "weights": kind.weights,
            "bytes": kind.nbytes,
            "names": list(kind.names),
            "unread": kind.unread,
        }
        for kind in found
    ]
    out = console(options)
    out.print(f"{printable(model or 'no model_type')}, {method}\n", soft_wrap=True)
    table = Table("type", "shape", "tensors", "weights", "size", "bits a weight", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in found:
        name, *cells = _cells(printable(kind.title), len(kind.names), kind.weights, kind.nbytes)
        table.add_row(name, "x".join(map(str, kind.shape or ())), *cells)
    out.print(table)
    for kind in found:
        if kind.unread:
            more = f" and {len(kind.names) - NAMED} more" if len(kind.names) > NAMED else ""
            names = ", ".join(printable(name, 80) for name in kind.names[:NAMED])
            out.print(f"\n{names}{more} cannot be read: {printable(kind.unread)}", soft_wrap=True)
    write_json(options, {"folder": options.file, "format": method, "model_type": model, "kinds": rows})
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
