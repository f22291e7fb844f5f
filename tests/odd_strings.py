"""Strings that tokenizers stumble over, and vocabularies whose merges go across words."""

from __future__ import annotations

import json
from typing import Any

CONTROL = ("<|im_start|>", "<|im_end|>")
ODD = (
    *(
        "",
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\n\n",
        "\n\n\n",
        "\r\n",
        "\r\n\r\n",
        " \n ",
        "\t\t\n",
        "\u00a0",
        "\u3000",
        "\u200b",
    ),
    *("a", " a", "  a", "a ", "a  ", "   a   b", "\na", "a\n", "a\n\nb", " \n\n a", "x\r\ny", "a\tb", "\x00", "a\x00b"),
    *(
        "café",
        "cafe\u0301",
        "ﬁne",
        "Å",
        "A\u030a",
        "ñ",
        "n\u0303",
        "한국어",
        "\u1112\u1161\u11ab",
        "東京",
        "日本語 text",
        "का",
    ),
    *("it's", "IT'S", "I'll we'VE", "don’t", "'s", " 's", "can't\n", "x's'y"),
    *("1", "12", "123", "1234", "12345678", "3.14", "1,000,000", "٣٤", "Ⅷ", "½", "x2y3", "2024-01-31"),
    *(
        "!",
        "!!",
        "?!",
        "...",
        "(a)",
        "[1, 2]",
        "a/b/c",
        "http://x.y/z?q=1",
        "#tag @you",
        "$5",
        "€5",
        "a_b",
        "__init__",
        "=>",
        "\\n",
    ),
    *(
        "🙂",
        "👨‍👩‍👧",
        "🇫🇷",
        "a🙂b",
        "CamelCase",
        "camelCase",
        "HTTPServer",
        "ÀB",
        "ǅ",
        "ʰa",
        "שלום",
        "مرحبا",
        "Привет мир",
    ),
    *("<|im_start|>user\nHi<|im_end|>", "a<|im_end|>b", " <|im_start|> ", "<|im_start", "<s>", "</s>", "<0x41>"),
    "    def f(x):\n        return x + 1\n\n\n",
)


def byte_pairs() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level vocabulary, learned from ODD without cuts, so that each cut counts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    built: Any = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(alphabet), show_progress=False, min_frequency=1
    )
    return _trained(built, trainer)


def pieces() -> tuple[list[str], list[str]]:
    """The same of characters, where a space is one of them. Bytes stand in front."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    built: Any = Tokenizer(models.BPE())
    built.normalizer = normalizers.Replace(" ", "▁")
    tokens, merges = _trained(built, trainers.BpeTrainer(vocab_size=700, show_progress=False, min_frequency=1))
    first = ["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*first, *(token for token in tokens if token not in first and token not in ("é", "東", "\x00"))], merges


def _trained(built: Any, trainer: Any) -> tuple[list[str], list[str]]:
    built.train_from_iterator([text for text in ODD if "<" not in text] * 3, trainer)
    model = json.loads(built.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def streamed(wrapped, ids) -> str:
    """The text of tokens that come one by one."""
    detokenizer = wrapped.detokenizer
    for id in ids:
        detokenizer.add_token(id)
    detokenizer.finalize()
    return detokenizer.text
