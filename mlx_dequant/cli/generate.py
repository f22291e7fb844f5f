"""Answer a prompt with a quantized language model, on mlx-lm.

The text comes as it is made. A model with a chat template gets the prompt as a user's message. At
the end stand tokens a second, for reading the prompt and for writing, and the most memory held.

Needs mlx-lm: pip install 'mlx-dequant[lm]'. Exit status: 0; 2 for a model that cannot be loaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import add_json, console, peak_memory, size, write_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or a folder with safetensors")
    parser.add_argument("-p", "--prompt", required=True, help="what to answer")
    parser.add_argument("--max-tokens", type=_count, default=256, metavar="N", help="stop after N tokens (256)")
    parser.add_argument("--temp", type=_temperature, default=0.0, metavar="T", help="temperature; 0 is greedy (0)")
    add_json(parser)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive integer")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 on")
    return value


def run(options: argparse.Namespace) -> int:
    try:
        from .. import lm
    except ImportError as error:
        raise OSError(str(error)) from None
    begin = time.perf_counter()
    model, tokenizer = lm.load(options.model)
    seconds = time.perf_counter() - begin

    out = console(options)
    answer = _shown(out, _answers(model, tokenizer, options))
    result = {
        "model": options.model,
        "prompt": options.prompt,
        "text": answer["text"],
        "load_seconds": seconds,
        **{key: answer[key] for key in ("prompt_tokens", "prompt_tps", "tokens", "tps", "finish_reason")},
        "peak_memory": peak_memory(),
    }
    out.print(
        f"\nprompt: {result['prompt_tokens']} tokens, {result['prompt_tps']:.1f} tokens/s"
        f"\nanswer: {result['tokens']} tokens, {result['tps']:.1f} tokens/s"
        f"\nloaded in {seconds:.1f} s, peak memory: {size(result['peak_memory'])}"
    )
    write_json(options, result)
    return 0


def _answers(model: Any, tokenizer: Any, options: argparse.Namespace) -> Iterator[Any]:
    """mlx-lm's responses, one a token."""
    from mlx_lm import stream_generate
    from mlx_lm.sample_utils import make_sampler

    prompt: Any = options.prompt
    if tokenizer.has_chat_template:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    sampler = make_sampler(temp=options.temp)
    return stream_generate(model, tokenizer, prompt, max_tokens=options.max_tokens, sampler=sampler)


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
