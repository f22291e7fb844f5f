"""The tokenizer of a GGUF file, for mlx-lm."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FormatError
from ..loading import GGUFFile
from .detokenizer import keep_all
from .tokenizer_files import named
from .vocabularies import LLAMA3_LIKE, byte_level, merged_characters, numbered, sentence_piece
from .wrapped import wrapped

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer

KINDS = {"gpt2": byte_level, "llama": sentence_piece, "gemma4": merged_characters}
PREFIX = "tokenizer.ggml."
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
CONTROL, USER_DEFINED = 3, 4
TEMPLATE = "tokenizer.chat_template"
# Keys that are read, and those that change no token of a text: llama.cpp reads them for other kinds of vocabularies, or
# when it fills in the middle of a text.
KNOWN = frozenset(
    """
    model pre tokens token_type scores merges add_bos_token add_eos_token add_space_prefix eos_token_ids
    bos_token_id eos_token_id eot_token_id eom_token_id unknown_token_id padding_token_id
    token_type_count precompiled_charsmap remove_extra_whitespaces
    seperator_token_id separator_token_id mask_token_id cls_token_id prefix_token_id suffix_token_id middle_token_id
    fim_pre_token_id fim_suf_token_id fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id
    """.split()  # noqa: SIM905
)
# The values with which texts are cut.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "add_sep_token": (False,),
    "normalizer.lowercase": (False,),
    "escape_whitespaces": (True,),
}

# Tokens that end an answer, even if the file names another end token.
ENDS = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "</s>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
}
# gpt-oss has these, and <|end|> ends a part of its answer.
PARTS = {"<|return|>", "<|call|>"}


def tokenizer(
    file: GGUFFile, extra: Mapping[str, Any] | None = None, eos_token_ids: Any = None, ignore: Collection[str] = ()
) -> TokenizerWrapper:
    """The tokenizer, with the file's special tokens and chat template.

    Args:
        extra: what its settings are instead, as mlx-lm's `tokenizer_config`.
        eos_token_ids: the tokens that end an answer, instead of the file's.
        ignore: keys of the metadata to leave out.

    Raises:
        FormatError: the file has no tokenizer, or one that is not supported, or a key of it is not known.
    """
    settings = {key: value for key, value in _settings(file).items() if PREFIX + key not in ignore}
    if settings.get("model") not in KINDS or not isinstance(settings.get("tokens"), list):
        found = settings.get("model")
        raise FormatError(f"{file.path.name}: {PREFIX}model: found {found!r}, expected {', '.join(KINDS)}")
    if file.metadata.get("general.architecture") in ("gemma3", "gemma3n"):
        settings.pop("scores", None)  # Gemma's scores are not in the order of merges; its tokens are
    _check_keys(file, settings)
    template = _templates(file)
    with named(file.path.name, "tokenizer"):
        vocabulary = numbered(settings["tokens"])
        built, config = _described(settings, vocabulary)
        config["chat_template"] = template
        return keep_all(wrapped(built, vocabulary, config, extra or {}, eos_token_ids or ends(file)))


def ends(file: GGUFFile) -> list[int]:
    """The tokens that end an answer."""
    settings = _settings(file)
    numbers = [settings.get(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    found = {number for number in numbers if type(number) is int}
    several = settings.get("eos_token_ids")  # Ollama's
    found |= set(several.tolist()) if isinstance(several, np.ndarray) and several.dtype.kind in "iu" else set()
    tokens, types = settings.get("tokens"), settings.get("token_type")
    if isinstance(tokens, list) and types is not None:
        control = {tokens[number]: number for number in _of_type(tokens, types, CONTROL)}
        named_ends = ENDS - {"<|end|>"} if control.keys() >= PARTS else ENDS
        found |= {control[name] for name in named_ends & control.keys()}
    return sorted(found)


def _of_type(tokens: list[str], types: Any, wanted: int) -> list[int]:
    """The numbers of tokens of a type."""
    return np.flatnonzero(np.asarray(types)[: len(tokens)] == wanted).tolist()


def _settings(file: GGUFFile) -> dict[str, Any]:
    return {key.removeprefix(PREFIX): file.metadata[key] for key in file.metadata if key.startswith(PREFIX)}


def _check_keys(file: GGUFFile, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if key in KNOWN or any(type(value) is type(known) and value == known for known in FIXED.get(key, ())):
            continue
        expected = " or ".join(map(repr, FIXED.get(key, ()))) or "none such: nothing reads it"
        name = PREFIX + key
        raise FormatError(
            f"{file.path.name}: {name}: found {str(value)[:80]}, expected {expected}; load(..., ignore=[{name!r}]) "
            "leaves it out"
        )


def _templates(file: GGUFFile) -> str | list[dict[str, str]] | None:
    """The chat template; a list as transformers has it where there are others, for tools."""
    keys = [key for key in file.metadata if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")]
    found = {key: file.metadata[key] for key in keys}
    for key, value in found.items():
        if not isinstance(value, str):
            raise FormatError(f"{file.path.name}: {key}: found {value!r}, expected a text")
    if set(found) <= {TEMPLATE}:
        return found.get(TEMPLATE)
    names = {key: key.removeprefix(TEMPLATE).removeprefix(".") or "default" for key in found}
    return [{"name": names[key], "template": value} for key, value in found.items()]


def _described(settings: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, and the content of tokenizer_config.json."""
    from tokenizers import AddedToken

    tokens: list[str] = settings["tokens"]
    built = KINDS[settings["model"]](vocabulary, settings)
    for kind, add in ((CONTROL, built.add_special_tokens), (USER_DEFINED, built.add_tokens)):
        numbers = _of_type(tokens, settings.get("token_type", ()), kind)
        add([AddedToken(tokens[number], normalized=False) for number in numbers])

    for key in ("eot", "eom"):
        _special(settings, key)
    config: dict[str, Any] = {name: _special(settings, key) for name, key in SPECIAL.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _frame(built, settings, config)
    return built, config


def _special(settings: Mapping[str, Any], key: str) -> str | None:
    """A special token. One that pads is no loss: some files number it behind the vocabulary."""
    number, tokens = settings.get(f"{key}_token_id"), settings["tokens"]
    if type(number) is int and 0 <= number < len(tokens):
        return tokens[number]
    if number is None or (key == "padding" and type(number) is int):
        return None
    raise FormatError(f"{PREFIX}{key}_token_id: found {number!r}, expected the number of one of {len(tokens)} tokens")


def _frame(built: Any, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Adds tokens before and after every text, if the file asks for them."""
    from tokenizers.processors import TemplateProcessing

    # llama.cpp's default.
    default = settings["model"] == "llama" or settings.get("pre") in LLAMA3_LIKE
    first = config["bos_token"] if settings.get("add_bos_token", default) else None
    last = config["eos_token"] if settings.get("add_eos_token", False) else None
    if first or last:
        around = [token for token in (first, last) if token]
        single = " ".join([*([first] if first else []), "$A", *([last] if last else [])])
        numbered = [(token, built.token_to_id(token)) for token in around]
        built.post_processor = TemplateProcessing(single=single, special_tokens=numbered)
