"""Answer a prompt with a quantized language model, on mlx-lm.

The text comes as it is made. A model with a chat template gets the prompt as a user's message. The
options are those of mlx_lm.generate. At the end stand tokens a second, for reading the prompt and for
writing, and the most memory held. Under `mlx.launch -n 2 -- mlx-dequant generate ...` the processes share
the model, and the first one prints, also what each read and holds.

Needs mlx-lm: pip install 'mlx-dequant[lm]'. Exit status: 0; 2 for a model that cannot be loaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, peak_memory, size, write_json
from ..errors import FormatError
from .generation import add_options, check, load, prompt, settings

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or a folder with safetensors")
    parser.add_argument("-p", "--prompt", required=True, help="what to answer")
    add_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    check(options)
    try:
        from ..lm import ranks
    except ImportError as error:
        raise OSError(str(error)) from None
    group = ranks.everybody()
    with ranks.together(group), ranks.one_voice(group):
        return _run(options, group)


def _run(options: argparse.Namespace, group: Any) -> int:
    from ..lm.ranks import launched, measured

    begin = time.perf_counter()
    loaded = load(options, group)
    seconds = time.perf_counter() - begin
    ranks = measured(group)

    out = console(options)
    out.quiet = group.rank() > 0
    answer = _shown(out, _answers(*loaded, options))
    result: dict[str, Any] = {
        "model": options.model,
        "prompt": options.prompt,
        "text": answer["text"],
        "load_seconds": seconds,
        **{key: answer[key] for key in ("prompt_tokens", "prompt_tps", "tokens", "tps", "finish_reason")},
        "peak_memory": peak_memory(),
        "ranks": ranks,
    }
    out.print(
        f"\nprompt: {result['prompt_tokens']} tokens, {result['prompt_tps']:.1f} tokens/s"
        f"\nanswer: {result['tokens']} tokens, {result['tps']:.1f} tokens/s"
        f"\nloaded in {seconds:.1f} s, peak memory: {size(result['peak_memory'])}"
    )
    for rank, own in enumerate(ranks if launched() else ()):
        out.print(f"rank {rank} of {len(ranks)}: read {size(own['bytes_read'])}, holds {size(own['memory'])}")
    if not group.rank():
        write_json(options, result)
    return 0


def _answers(model: Any, tokenizer: Any, draft: Any, options: argparse.Namespace) -> Iterator[Any]:
    """mlx-lm's responses, one a token."""
    from mlx_lm import stream_generate

    try:
        yield from stream_generate(model, tokenizer, prompt(tokenizer, options), **settings(tokenizer, draft, options))
    except FormatError:
        raise
    except ValueError as error:  # an option that does not suit the model, or a prompt of no tokens
        raise FormatError(f"mlx-lm: {error}") from error


def _shown(out: Console, answers: Iterator[Any]) -> dict[str, Any]:
    """Prints an answer as it comes, on a terminal above a line that says how fast."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    text, shown, last = "", 0, None
    with Live(console=out, transient=True, refresh_per_second=10, auto_refresh=out.is_terminal) as live:
        for last in answers:
            text += "".join(c if c.isprintable() or c in "\n\t" else "�" for c in last.text)
            end = text.rfind("\n", shown)
            if end >= 0:  # whole lines stay
                out.print(Text(text[shown:end]))
                shown = end + 1
            speed = f"{last.generation_tokens} tokens, {last.generation_tps:.1f} tokens/s"
            live.update(Group(Text(text[shown:]), Text(speed, style="dim")))
    if text[shown:]:
        out.print(Text(text[shown:]))
    assert last is not None  # there is at least one token
    return {
        "text": text,
        "prompt_tokens": last.prompt_tokens,
        "prompt_tps": last.prompt_tps,
        "tokens": last.generation_tokens,
        "tps": last.generation_tps,
        "finish_reason": last.finish_reason,
    }
