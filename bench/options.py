"""The benchmark's arguments, and the cases and providers that they choose."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mlx_dequant.diagnostics.output import add_json, count, target

from .cases import ACT_ORDER, DTYPES, FORMATS, LAYERS, OPERATIONS, ROWS, Case, chosen, quick

CPU_LAYERS = ("Gemma-3-270M down_proj", "Qwen3-4B q_proj")
GPU_LAYERS = ("Qwen3-4B q_proj", "Llama-3-8B gate_proj")
QUICK_SECONDS = 42  # after which no further case begins


def add(parser: argparse.ArgumentParser) -> None:
    """Adds everything to a command's parser."""
    what = parser.add_argument_group("what to measure")
    what.add_argument("--quick", action="store_true", help="the most telling cases, in less than a minute")
    what.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS, metavar="OPERATION",
                      help=f"of {', '.join(OPERATIONS)} (all)")  # fmt: skip
    what.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT",
                      help=f"({' '.join(FORMATS)}); 'all'; NAME{ACT_ORDER} has act-order")  # fmt: skip
    what.add_argument("--layers", nargs="+", metavar="LAYER",
                      help=f"OUTxIN, or parts of names: {', '.join(LAYERS)} (two that suit the device)")  # fmt: skip
    what.add_argument("--rows", nargs="+", type=count, default=ROWS, metavar="M",
                      help=f"rows of x ({' '.join(map(str, ROWS))})")  # fmt: skip
    what.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES[:1], metavar="DTYPE",
                      help=f"of {', '.join(DTYPES)} (float16)")  # fmt: skip
    what.add_argument("--providers", nargs="+", metavar="NAME",
                      help="parts of their names (all that are here)")  # fmt: skip
    what.add_argument("--model", metavar="FILE", type=Path,
                      help="measure a GGUF language model's tokens a second instead")  # fmt: skip
    what.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of rounds for each case (4)")
    what.add_argument("--from", dest="source", metavar="FILE", help="measure nothing: show results that --json wrote")
    out = parser.add_argument_group("what to write")
    add_json(out)
    out.add_argument("--csv", metavar="FILE", type=target, help="write the rows there as CSV")
    out.add_argument("--html", metavar="FILE", type=target, help="write a page with charts there")
    out.add_argument("--compare", metavar="OLD", help="show what changed, beyond the noise, since results in OLD.json")
    out.add_argument("--submit-text", action="store_true", help="print a compact block to paste into an issue")


def cases(options: argparse.Namespace) -> list[Case]:
    """The cases that the arguments choose.

    Raises:
        ValueError: a format or a layer is not known.
    """
    import mlx_dequant as mxd

    from ..backends import GPUS

    act_order = [f"{name}{ACT_ORDER}" for name, form in mxd.formats().items() if form.family not in ("gguf", "awq")]
    names = [*mxd.formats(), *act_order]
    wanted = names if list(options.formats) == ["all"] else options.formats
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"--formats: found {', '.join(unknown)}, expected some of {', '.join(names)}")
    on_gpu = mxd.current_backend() in GPUS
    if options.quick:
        return [case for case in quick(on_gpu) if case.case in options.operations]
    layers = _layers(options.layers or (GPU_LAYERS if on_gpu else CPU_LAYERS))
    return chosen(options.operations, wanted, layers, options.rows, options.dtypes)


def _layers(parts: Sequence[str]) -> dict[str, tuple[int, int]]:
    sizes = {part: re.fullmatch(r"(\d+)x(\d+)", part) for part in parts}
    sized = {part: (int(size[1]), int(size[2])) for part, size in sizes.items() if size}
    names = [part for part, size in sizes.items() if not size]
    named = {name: LAYERS[name] for name in LAYERS if any(part.lower() in name.lower() for part in names)}
    if not named and not sized:
        raise ValueError(f"--layers: found {', '.join(parts)}, expected OUTxIN or parts of {', '.join(LAYERS)}")
    return named | sized
