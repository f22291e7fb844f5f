"""The benchmark's arguments, and the cases and contestants that they choose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mlx_dequant.cli.output import add_json, target

from .cases import DTYPES, FORMATS, LAYERS, OPERATIONS, VECTORS, Case, chosen, quick

CPU_LAYERS = ("Gemma-3-270M down_proj", "Qwen3-4B q_proj")
GPU_LAYERS = ("Qwen3-4B q_proj", "Llama-3-8B gate_proj")
QUICK_SECONDS = 42  # after which no further case begins


def add(parser: argparse.ArgumentParser) -> None:
    """Adds everything to a command's parser."""
    what = parser.add_argument_group("what to measure")
    what.add_argument("--quick", action="store_true", help="the most telling cases, in less than a minute")
    what.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS, metavar="OPERATION",
                      help=f"of {', '.join(OPERATIONS)} (all)")  # fmt: skip
    what.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT", help=f"({' '.join(FORMATS)})")
    what.add_argument("--layers", nargs="+", metavar="LAYER",
                      help=f"parts of names: {', '.join(LAYERS)} (two that suit the device)")  # fmt: skip
    what.add_argument("--vectors", nargs="+", type=_count, default=VECTORS, metavar="N", help="rows of x (1 8 32 512)")
    what.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES[:1], metavar="DTYPE",
                      help=f"of {', '.join(DTYPES)} (float16)")  # fmt: skip
    what.add_argument("--contestants", nargs="+", metavar="NAME", help="parts of their names (all that are here)")
    what.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of rounds for each case (4)")
    what.add_argument("--from", dest="source", metavar="FILE", help="measure nothing: show results that --json wrote")
    out = parser.add_argument_group("what to write")
    add_json(out)
    out.add_argument("--csv", metavar="FILE", type=target, help="write the rows there as CSV")
    out.add_argument("--html", metavar="FILE", type=target, help="write a page with charts there")
    out.add_argument("--compare", metavar="OLD", help="show what changed, beyond the noise, since results in OLD.json")
    out.add_argument("--submit-text", action="store_true", help="print a compact block to paste into an issue")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive integer")
    return int(text)


def cases(options: argparse.Namespace) -> list[Case]:
    """The cases that the arguments choose.

    Raises:
        ValueError: a format or a layer is not known.
    """
    import mlx_dequant as mxd

    from .timing import ON_GPU
    from .weights import names

    unknown = sorted(set(options.formats) - set(names()))
    if unknown:
        raise ValueError(f"--formats: found {', '.join(unknown)}, expected some of {', '.join(names())}")
    on_gpu = mxd.current_backend() in ON_GPU
    if options.quick:
        return [case for case in quick(on_gpu) if case.operation in options.operations]
    layers = _layers(options.layers or (GPU_LAYERS if on_gpu else CPU_LAYERS))
    return chosen(options.operations, options.formats, layers, options.vectors, options.dtypes)


def _layers(parts: Sequence[str]) -> list[str]:
    found = [name for name in LAYERS if any(part.lower() in name.lower() for part in parts)]
    if not found:
        raise ValueError(f"--layers: found {', '.join(parts)}, expected parts of {', '.join(LAYERS)}")
    return found
