"""What commands print: tables on a console, and JSON that is written whole or not at all."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def add_json(parser: argparse._ActionsContainer) -> None:
    """Adds `--json FILE`."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=target,
        help="write the result there as JSON; - is standard output, and the tables go to standard error",
    )


def count(text: str) -> int:
    """An argument that is a positive integer."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive integer")
    return int(text)


def target(text: str) -> str:
    """An argument that names a file to write."""
    # Found out before the work, not after it.
    path = Path(text).resolve()
    problem = ""
    if not path.parent.is_dir():
        problem = "there is no such folder"
    elif path.is_dir():
        problem = "found a folder, expected a file"
    elif not os.access(path.parent if is_file(text) else path, os.W_OK):
        problem = "nothing can be written there"
    if text != "-" and problem:
        raise argparse.ArgumentTypeError(f"{text}: {problem}")
    return text


def console(options: argparse.Namespace) -> Console:
    """Where a command's tables go."""
    from rich.console import Console

    class Tables(Console):
        def on_broken_pipe(self) -> None:
            with suppress(SystemExit):  # its status would say that a check failed
                super().on_broken_pipe()
            raise BrokenPipeError("standard output: nobody reads it any more")

    return Tables(stderr=options.json == "-", highlight=False, markup=False)


def write_json(options: argparse.Namespace, result: Any) -> None:
    """Writes `result` where `--json` says, if it says so."""
    if options.json is not None:
        write_text(options.json, json.dumps(result, indent=2, allow_nan=False) + "\n")


def is_file(name: str | None) -> bool:
    """Whether that is, or would be, a file: not standard output, a device or a pipe."""
    return name not in (None, "-") and (Path(name).is_file() or not Path(name).exists())


def write_text(file: str, text: str) -> None:
    """Writes a file, replaced in one step; "-" is standard output."""
    if file == "-":
        sys.stdout.write(text)
        return
    path = Path(file).resolve()
    if not is_file(file):  # a device or a pipe
        path.write_text(text)
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def printable(text: str, length: int | None = None) -> str:
    """`text`, which may come from a file, on one line without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if length is None or len(text) <= length else text[: length - 1] + "…"


def size(nbytes: float) -> str:
    """Bytes, to be read by people: "98.4 MB"."""
    unit = ""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 999.5 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"


def peak_memory() -> int:
    """The most memory this process has held, in bytes, the file's pages included."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
