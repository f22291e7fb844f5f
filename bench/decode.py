"""`mlx-dequant bench decode`: its arguments, the models that they choose, and what it shows and writes."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd
from mlx_dequant.diagnostics.environment import environment
from mlx_dequant.diagnostics.output import console, count, is_file, target, write_json, write_text
from mlx_dequant.errors import FormatError

from .. import dtypes
from ..backends import GPUS
from . import file_models, models, report, results
from .cases import ACT_ORDER, DTYPES, FUSED
from .cases.decode import PROMPTS, Candidate, Plan, Row, measure
from .models import CONFIGS, HEADS, MLX_BITS, Kind
from .runners import MLXModel, Runner

OURS = ("q4_k", "q4_0", "q6_k", "q8_0", "awq4", "gptq4", f"gptq4{ACT_ORDER}", "ct4", "mxfp4")
MLX = (*MLX_BITS, "dense")
TORCH = ("q4_k", "awq4")  # multiplied by this package for a model of torch
PROVIDERS = ("mlx-dequant", "mlx", "torch", "llama-cpp-python")
FROM_TORCH = "mlx-dequant from torch"


def add(parser: argparse.ArgumentParser) -> None:
    """Adds everything to the command's parser."""
    what = parser.add_argument_group("what to measure")
    what.add_argument("--model", default="llama-8b", metavar="MODEL",
                      help=f"a shape, with random weights ({', '.join(CONFIGS)}), or a GGUF file")  # fmt: skip
    what.add_argument("--layers", type=count, metavar="N", help="of the shape (as many as the model has)")
    what.add_argument("--formats", nargs="+", metavar="FORMAT",
                      help=f"({' '.join((*MLX, *OURS))}); NAME{ACT_ORDER} has act-order, NAME{FUSED} is as with "
                      "--fuse")  # fmt: skip
    what.add_argument("--fuse", action="store_true",
                      help="measure mlx-dequant's models also with one product for q, k and v")  # fmt: skip
    what.add_argument("--providers", nargs="+", choices=PROVIDERS, default=PROVIDERS, metavar="NAME",
                      help=f"of {', '.join(PROVIDERS)} (all that are here)")  # fmt: skip
    what.add_argument("--head", choices=HEADS,
                      help="of all embeddings and output layers (mlx-6; dense beside torch)")  # fmt: skip
    what.add_argument("--prompts", nargs="+", type=count, default=PROMPTS, metavar="TOKENS",
                      help=f"lengths of prompts ({' '.join(map(str, PROMPTS))})")  # fmt: skip
    what.add_argument("--tokens", type=count, default=64, metavar="N", help="decoded in a round (64)")
    what.add_argument("--rounds", type=count, default=7, metavar="N", help="at most, of decode and of each prompt (7)")
    what.add_argument("--seconds", type=float, default=30.0, metavar="S",
                      help="after which no new round begins, once there are three (30)")  # fmt: skip
    what.add_argument("--dtype", choices=DTYPES, help="of activations and dense weights (float16; float32 on a CPU)")
    what.add_argument("--memory", type=float, metavar="GB", help="that models may take at a time")
    out = parser.add_argument_group("what to write")
    out.add_argument("--json", metavar="FILE", type=target,
                     help="write the result there as JSON, after each phase; - is standard output")  # fmt: skip
    out.add_argument("--csv", metavar="FILE", type=target, help="write the rows there as CSV")


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit status."""
    begin, out = time.monotonic(), console(options)
    found = environment()
    out.print(report.environment_line(found))
    on_gpu = found["backend"] in GPUS
    dtype = dtypes.of(options.dtype or ("float16" if on_gpu else "float32"))
    if options.model in CONFIGS:
        facts, candidates, absent = _shape(options, dtype)
    else:
        facts, candidates, absent = file_models.found(options, dtype)
    for name, why in absent.items():
        out.print(f"{name}: {why}", style="dim")
    memory = int(1e9 * options.memory) if options.memory else room()
    plan = Plan(
        facts | {"device": found["device"]},
        candidates,
        options.prompts,
        options.tokens,
        options.rounds,
        options.seconds,
        memory,
    )

    extra = {"head": facts["head"]} if "head" in facts else {}
    if extra:
        out.print(f"embedding and output layer of all models: {facts['head']}")

    def result(rows: list[Row]) -> dict[str, Any]:
        return results.assembled(rows, absent) | extra

    def write(rows: list[Row]) -> None:
        # Who cuts a long run short has what was measured.
        if is_file(options.json):
            write_json(options, result(rows))

    def say(text: str) -> None:
        out.print(f"{time.monotonic() - begin:4.0f} s  {text}", soft_wrap=True)

    rows = measure(plan, say, write)
    for table in report.other_tables(rows):
        out.print("", table)
    write_json(options, result(rows))
    if options.csv:
        write_text(options.csv, results.csv_text(rows))
    return int(any(row.get("status") in ("wrong", "failed") for row in rows if results.is_ours(row["provider"])))


def _in_torch(kind: Kind) -> bool:
    return kind.provider in ("torch", FROM_TORCH)


def _shape(options: argparse.Namespace, dtype: mx.Dtype) -> tuple[Row, dict[Kind, Candidate], dict[str, str]]:
    """Random models of a named shape."""
    settings = models.config(options.model, options.layers)
    chosen, absent = kinds(options.formats, options.providers, settings, options.head, options.fuse)
    beside_torch = any(map(_in_torch, chosen))
    head = options.head or ("dense" if beside_torch else "mlx-6")
    ends = models.shared(settings, head, dtype)

    def maker(kind: Kind) -> Callable[[], Runner]:
        if _in_torch(kind):
            from .torch_model import TorchModel

            return lambda: TorchModel(kind, settings, dtype, ends)
        return lambda: MLXModel(models.model(kind, settings, dtype, ends), settings["vocab_size"], dtype)

    candidates = {kind: Candidate(maker(kind), models.nbytes(kind, settings, dtype)) for kind in chosen}
    facts = {"model": options.model, "layers": settings["num_hidden_layers"], "head": head}
    return facts, candidates, absent


def kinds(
    formats: Sequence[str] | None,
    providers: Sequence[str],
    settings: dict[str, Any],
    head: str | None = None,
    fuse: bool = False,
) -> tuple[list[Kind], dict[str, str]]:
    """The kinds of models that arguments choose and a shape can have, and why others have no row.

    Raises:
        FormatError: a format is not known, or none of those chosen can be measured.
    """
    known = {kind.name: kind for kind in _ours()} | {name: Kind("mlx", name) for name in MLX}
    unknown = sorted(set(formats or ()) - set(known))
    if unknown:
        raise FormatError(f"--formats: found {', '.join(unknown)}, expected some of {', '.join(known)}")
    wanted = [known[name] for name in dict.fromkeys(formats or (*MLX, *OURS))]
    if fuse:
        wanted = [each for kind in wanted for each in (kind, replace(kind, fused=kind.provider == "mlx-dequant"))]
    wanted = [kind for kind in dict.fromkeys(wanted) if kind.provider in providers]
    absent: dict[str, str] = {}
    mixture = "experts are not measured from torch" if "num_experts" in settings else ""
    if "torch" in providers and (why := mixture or _no_torch(head)):
        absent["torch"] = why
    elif "torch" in providers:
        names = formats or ("dense", *TORCH)
        wanted += [
            Kind("torch" if name == "dense" else FROM_TORCH, name) for name in ("dense", *TORCH) if name in names
        ]
    absent |= {kind.title: why for kind in wanted if (why := models.misfit(kind, settings))}
    found = [kind for kind in wanted if kind.title not in absent]
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in absent.items())
        raise FormatError(f"--formats, --providers: found no model to measure{reasons and f' ({reasons})'}")
    return found, absent


def _ours() -> list[Kind]:
    found = [Kind("mlx-dequant", name) for name in mxd.formats()]
    ordered = [name for name, form in mxd.formats().items() if form.family not in ("gguf", "awq")]
    found += [Kind("mlx-dequant", name, has_g_idx=True) for name in ordered]
    return [*found, *(replace(kind, fused=True) for kind in found)]


def _no_torch(head: str | None) -> str:
    """Why torch takes no part; "" if it does."""
    try:
        from .providers import torch_devices

        device = next(torch_devices())
    except ImportError as error:
        return str(error)
    if mxd.current_backend() in GPUS and device == "cpu":
        return "found no GPU that this torch can use"
    return "" if head in (None, "dense") else f"has no head of {head} (--head dense is equal for all)"


def room() -> int:
    """Bytes that models may take at a time: most of what the GPU may have, or half of the machine's memory."""
    facts = mx.device_info()
    if mxd.current_backend() in GPUS:
        names = ("max_recommended_working_set_size", "total_memory", "memory_size")
        sizes = [int(facts[name]) for name in names if name in facts]
        if sizes:
            return int(0.8 * sizes[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
