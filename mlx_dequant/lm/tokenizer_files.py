"""Whose tokenizer fails, and why: transformers, tokenizers and mlx-lm raise whatever they like."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FormatError
from ..loading.mapped import files, read_json

# One of these is a tokenizer; the last ones are those of single models' own code.
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
OTHERS = ("*.tiktoken", "tiktoken.model", "tokenizer.model.v*", "tekken.json", "tokenization_*.py")
JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Values in one of them. A merge of two tokens is three: Gemma 3 has 1,900,000.
MOST_VALUES = 10_000_000


@contextmanager
def named(place: str, what: str) -> Generator[None]:
    """Any exception inside becomes a FormatError that begins with a place, and says what was not read."""
    try:
        yield
    except FormatError as error:
        raise (error if str(error).startswith(place) else FormatError(f"{place}: {error}")) from error.__cause__
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise  # no fault of the tokenizer
        raise FormatError(f"{place}: {what}: found what transformers does not read: {error!r}") from error


@contextmanager
def of_folder(folder: Path) -> Generator[None]:
    """As `named`, for a folder's tokenizer, whose files are there and are JSON where they should be.

    Raises:
        FormatError: there is no tokenizer.
    """
    found = [name for name in FILES if (folder / name).is_file()]
    found += [path.name for pattern in OTHERS for path in files(folder, pattern)]
    if not found:
        raise FormatError(
            f"{folder.name}: found no {', '.join(FILES[:3])}, expected a tokenizer: copy the files of the model that "
            "was quantized"
        )
    with named(folder.name, found[0]):
        for path in folder.iterdir():  # mlx-lm and transformers open what is there, whatever it is
            if path.exists() and not path.is_file() and not path.is_dir():
                raise FormatError(f"{path.name}: found a pipe or a device, expected a file")
        for name in JSON:
            if (folder / name).is_file():
                read_json(folder / name, MOST_VALUES)
        yield
