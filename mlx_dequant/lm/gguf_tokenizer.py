"""The tokenizer of a GGUF file, written as Hugging Face's files, which mlx-lm reads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..loading import GGUFFile
from .vocabularies import LLAMA3_LIKE, byte_level, sentence_piece

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer

KINDS = {"gpt2": byte_level, "llama": sentence_piece}
PREFIX = "tokenizer.ggml."
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
CONTROL, USER_DEFINED = 3, 4

# Tokens that end an answer, even if the file names another end token.
ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "</s>"}


def tokenizer(file: GGUFFile) -> TokenizerWrapper:
    """The tokenizer, with the file's special tokens and chat template.

    Raises:
        FormatError: the file has no tokenizer, or one that is not supported.
    """
    from mlx_lm.utils import load_tokenizer

    settings = {key.removeprefix(PREFIX): file.metadata[key] for key in file.metadata if key.startswith(PREFIX)}
    if settings.get("model") not in KINDS or not isinstance(settings.get("tokens"), list):
        found = settings.get("model")
        raise FormatError(f"{file.path.name}: {PREFIX}model: found {found!r}, expected {' or '.join(KINDS)}")
    if file.metadata.get("general.architecture") == "gemma3":
        settings.pop("scores", None)  # Gemma's scores are not in the order of merges; its tokens are
    try:
        built, config, ends = _described(settings)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise FormatError(f"{file.path.name}: tokenizer: {error!r}") from error
    config["chat_template"] = file.metadata.get("tokenizer.chat_template")
    with tempfile.TemporaryDirectory() as folder:
        built.save(f"{folder}/tokenizer.json")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(Path(folder), eos_token_ids=ends)


def _described(settings: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any], list[int]]:
    """The tokenizer, the content of tokenizer_config.json, and the ids that end an answer."""
    from tokenizers import AddedToken

    tokens: list[str] = settings["tokens"]
    built = KINDS[settings["model"]](tokens, settings)
    types = [int(kind) for kind in settings.get("token_type", ())]
    control, plain = (
        [token for token, kind in zip(tokens, types, strict=False) if kind == wanted]
        for wanted in (CONTROL, USER_DEFINED)
    )
    built.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    built.add_tokens([AddedToken(token, normalized=False) for token in plain])

    special = {name: settings.get(f"{key}_token_id") for name, key in SPECIAL.items()}
    config: dict[str, Any] = {name: None if id is None else tokens[id] for name, id in special.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _frame(built, settings, config)
    ends = {number for number, token in enumerate(tokens) if token in ENDS and token in set(control)}
    ends |= {settings[key] for key in ("eos_token_id", "eot_token_id", "eom_token_id") if key in settings}
    return built, config, sorted(ends)


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
