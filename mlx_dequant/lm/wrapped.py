"""A tokenizer of the tokenizers library in mlx-lm's hands, without the vocabulary in a file.

mlx-lm and transformers read a folder. Vocabularies are the most of it, and each of both reads them more than once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def wrapped(
    built: Any,
    vocabulary: Mapping[str, int],
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    eos_token_ids: Any,
) -> TokenizerWrapper:
    """mlx-lm's tokenizer around `built`, which must not be used for anything else.

    Args:
        built: a `tokenizers.Tokenizer`.
        vocabulary: its tokens and their numbers, but for added tokens.
        config: the content of tokenizer_config.json.
        settings: mlx-lm's `tokenizer_config`.
        eos_token_ids: the tokens that end an answer.
    """
    from mlx_lm.utils import load_tokenizer

    with tempfile.TemporaryDirectory() as folder, _quick(built, vocabulary):
        named = {**config, **settings}.values()
        Path(folder, "tokenizer.json").write_text(json.dumps(_without_vocabulary(built, named)))
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(Path(folder), {"tokenizer_object": built, **settings}, eos_token_ids=eos_token_ids)


def _without_vocabulary(built: Any, named: Collection[Any]) -> dict[str, Any]:
    """The content of tokenizer.json, with the added tokens that are `named` and no others."""
    from tokenizers import Tokenizer, models

    empty = Tokenizer(models.BPE())
    for name in PARTS:
        if getattr(built, name) is not None:
            setattr(empty, name, getattr(built, name))
    added = [(number, token) for number, token in built.get_added_tokens_decoder().items() if token.content in named]
    tokens = [{"id": number, **{flag: getattr(token, flag) for flag in FLAGS}} for number, token in added]
    return json.loads(empty.to_str()) | {"added_tokens": tokens}


class _Texts(dict[int, str]):
    """The token of each number. Those that were added later are `built`'s to tell."""

    def __init__(self, built: Any, vocabulary: Mapping[str, int]):
        super().__init__(zip(vocabulary.values(), vocabulary, strict=True))
        self.ask = built.id_to_token

    def __missing__(self, number: int) -> str | None:
        return self.ask(number)


@contextmanager
def _quick(built: Any, vocabulary: Mapping[str, int]) -> Generator[None]:
    """Spares `built` the copies of its whole vocabulary that mlx-lm and transformers ask for."""

    def get_vocab(with_added_tokens: bool = True) -> dict[str, int]:
        added = built.get_added_tokens_decoder() if with_added_tokens else {}
        return {**vocabulary, **{token.content: number for number, token in added.items()}}

    answers = {
        "get_vocab": get_vocab,
        "id_to_token": _Texts(built, vocabulary).__getitem__,
        "__deepcopy__": lambda memo: built,
    }
    for name, answer in answers.items():
        setattr(built, name, answer)
    yield
    for name in answers:
        delattr(built, name)
