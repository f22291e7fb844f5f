"""The options of mlx_lm.generate, for `mlx-dequant generate`."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..diagnostics.output import count, size
from ..errors import FormatError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

DTYPES = ("float32", "float16", "bfloat16")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options, by mlx-lm's names."""
    text = parser.add_argument_group("prompt")
    text.add_argument("--system-prompt", metavar="TEXT", help="what the chat template says first")
    text.add_argument("--prefill-response", metavar="TEXT", help="how the answer begins")
    text.add_argument("--ignore-chat-template", action="store_true", help="take the prompt as it is")
    text.add_argument("--extra-eos-token", nargs="+", default=(), metavar="TOKEN", help="tokens that end an answer too")
    text.add_argument("--max-tokens", "-m", type=count, default=256, metavar="N", help="stop after N tokens (256)")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--temp", type=_above, default=0.0, metavar="T", help="temperature; 0 is greedy (0)")
    sampling.add_argument(
        "--top-p", type=_share, default=1.0, metavar="P", help="sample from the likeliest tokens that sum to P (1)"
    )
    sampling.add_argument(
        "--min-p", type=_share, default=0.0, metavar="P", help="drop tokens less likely than P times the likeliest (0)"
    )
    sampling.add_argument(
        "--min-tokens-to-keep", type=count, default=1, metavar="N", help="that --min-p keeps at least (1)"
    )
    sampling.add_argument(
        "--top-k", type=_whole, default=0, metavar="K", help="sample from the K likeliest tokens; 0 is all (0)"
    )
    sampling.add_argument("--xtc-probability", type=_share, default=0.0, metavar="P", help="of XTC sampling (0)")
    sampling.add_argument("--xtc-threshold", type=_share, default=0.0, metavar="P", help="of XTC sampling (0)")
    sampling.add_argument("--seed", type=_whole, metavar="N", help="of random numbers")

    model = parser.add_argument_group("model")
    model.add_argument("--dtype", choices=DTYPES, help="type of activations and of dense weights")
    model.add_argument("--adapter-path", metavar="FOLDER", help="an adapter that mlx_lm.lora made")
    model.add_argument("--draft-model", metavar="MODEL", help="a small model that guesses tokens")
    model.add_argument("--num-draft-tokens", type=count, default=3, metavar="N", help="tokens guessed at once (3)")
    model.add_argument("--max-kv-size", type=count, metavar="N", help="tokens that the cache remembers")
    model.add_argument(
        "--prefill-step-size", type=count, default=2048, metavar="N", help="prompt tokens read at once (2048)"
    )
    model.add_argument("--kv-bits", type=int, choices=(2, 3, 4, 6, 8), help="bits of the cache's numbers")
    model.add_argument("--kv-group-size", type=int, choices=(32, 64, 128), default=64, help="numbers a scale (64)")
    model.add_argument(
        "--quantized-kv-start", type=_whole, default=5000, metavar="N", help="tokens before --kv-bits counts (5000)"
    )


def check(options: argparse.Namespace) -> None:
    """Refuses options that mlx-lm cannot combine."""
    if options.max_kv_size is not None:
        for name in ("kv_bits", "draft_model"):
            if getattr(options, name) is not None:
                shown = "--" + name.replace("_", "-")
                raise FormatError(f"{shown}: found {getattr(options, name)} and --max-kv-size, expected one of them")


def load(options: argparse.Namespace, group: Any = None) -> tuple[Any, Any, Any]:
    """The model with its adapter, the tokenizer, and the model that guesses or None.

    A group's processes share the model; each has all of the one that guesses.
    """
    import mlx.core as mx
    from rich.console import Console

    from .. import lm

    dtype = getattr(mx, options.dtype) if options.dtype else None
    fuse = group is None or group.size() == 1
    with reading(Console(stderr=True, quiet=group is not None and group.rank() > 0)):
        model, tokenizer = lm.load(options.model, dtype=dtype, group=group, fuse=fuse)
    if options.adapter_path is not None:
        from mlx_lm.utils import load_adapters

        try:
            model = load_adapters(model, options.adapter_path)
        except ValueError as error:
            raise FormatError(f"--adapter-path: {options.adapter_path}: {error}") from error
    for token in options.extra_eos_token:
        try:
            tokenizer.add_eos_token(token)
        except ValueError as error:
            raise FormatError(f"--extra-eos-token: {error}") from error
    if options.draft_model is None:
        return model, tokenizer, None
    draft, other = lm.load(options.draft_model, dtype=dtype, fuse=True)
    if other.vocab_size != tokenizer.vocab_size:
        raise FormatError(f"--draft-model: found {other.vocab_size} tokens, expected {tokenizer.vocab_size}")
    return model, tokenizer, draft


@contextmanager
def reading(screen: Console) -> Generator[None]:
    """Shows on a terminal how many bytes of tensors have been read so far."""
    from rich.progress import Progress, ProgressColumn, SpinnerColumn
    from rich.text import Text

    from ..loading.mapped import bytes_read

    before = bytes_read()

    class Read(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"reading the model: {size(bytes_read() - before)}")

    with Progress(SpinnerColumn(), Read(), console=screen, transient=True, disable=not screen.is_terminal) as progress:
        progress.add_task("", total=None)
        yield


def prompt(tokenizer: Any, options: argparse.Namespace) -> Any:
    """The prompt as tokens, framed as a chat where the tokenizer has a template."""
    if options.ignore_chat_template or not tokenizer.has_chat_template:
        return options.prompt
    messages = [{"role": "user", "content": options.prompt}]
    if options.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": options.system_prompt})
    begun = options.prefill_response is not None
    if begun:
        messages.append({"role": "assistant", "content": options.prefill_response})
    return tokenizer.apply_chat_template(messages, add_generation_prompt=not begun, continue_final_message=begun)


def settings(tokenizer: Any, draft: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What `mlx_lm.stream_generate` takes besides."""
    import mlx.core as mx
    from mlx_lm.sample_utils import make_sampler

    if options.seed is not None:
        mx.random.seed(options.seed)
    sampler = make_sampler(
        options.temp,
        options.top_p,
        options.min_p,
        options.min_tokens_to_keep,
        top_k=options.top_k,
        xtc_probability=options.xtc_probability,
        xtc_threshold=options.xtc_threshold,
        xtc_special_tokens=[*tokenizer.encode("\n"), *tokenizer.eos_token_ids],
    )
    guessing = {"draft_model": draft, "num_draft_tokens": options.num_draft_tokens} if draft is not None else {}
    size = {} if draft is not None else {"max_kv_size": options.max_kv_size}
    kept = ("max_tokens", "prefill_step_size", "kv_bits", "kv_group_size", "quantized_kv_start")
    return {"sampler": sampler, **guessing, **size, **{name: getattr(options, name) for name in kept}}


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 to 2^63 - 1")
    return int(text)


def _above(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 on")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
