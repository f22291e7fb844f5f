"""Numbers of config.json, checked before a model is made by them."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

from ..errors import FormatError
from .settings import FILE, fail

# Each layer is an object before its weights are read. Models have some 130.
MOST_LAYERS = 1024
LARGEST = 2**63 - 1  # what MLX and transformers count with
NUMBERS = {int, float, bool}


@contextmanager
def checked() -> Generator[None]:
    """What transformers and mlx-lm raise for settings of wrong types becomes FormatError."""
    try:
        yield
    except (FormatError, MemoryError, OSError):
        raise
    except Exception as error:
        raise FormatError(f"{FILE}: found settings that cannot be read: {error!r}") from error


def check(stored: Mapping[str, Any], place: str = "") -> None:
    """Refuses NaN, infinity, numbers of more than 64 bits, and more layers than models have.

    Args:
        stored: what config.json has.
        place: the keys above, for messages.
    """
    for key, value in stored.items():
        name = f"{place}{key}"
        if isinstance(value, dict):
            check(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise fail(name, value, "a finite number")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise FormatError(f"{FILE}: {name}: found an integer of {value.bit_length()} bits, expected at most 64")
        elif isinstance(value, int) and key.endswith(("layers", "n_layer")) and value > MOST_LAYERS:
            raise fail(name, value, f"at most {MOST_LAYERS}")


def check_types(settings: Mapping[str, Any], arguments: type) -> None:
    """Refuses texts and lists where mlx-lm's model takes a number, which it would find when it multiplies.

    Args:
        settings: as mlx-lm's model gets them.
        arguments: its class of settings.
    """
    for name, hint in get_type_hints(arguments).items():
        kinds = set(get_args(hint) or (hint,)) - {type(None)}
        found = settings.get(name)
        if kinds <= NUMBERS and isinstance(found, (str, list, dict)) and not name.endswith("token_id"):
            raise fail(name, found, "a number")
