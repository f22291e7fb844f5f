"""Numbers of config.json, checked before a model is made by them."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import FormatError
from .settings import FILE, fail

# Each layer is an object before its weights are read. Models have some 130.
MOST_LAYERS = 1024
LARGEST = 2**63 - 1  # what MLX and transformers count with
NUMBERS = {int, float, bool}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


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
        elif isinstance(value, int) and key == "num_hidden_layers" and value < 1:
            raise fail(name, value, "a layer")


def check_model(settings: Mapping[str, Any], arguments: type) -> None:
    """Refuses what mlx-lm's model would find when it multiplies: texts for numbers, heads or experts that cannot be.

    Args:
        settings: as mlx-lm's model gets them.
        arguments: its class of settings.
    """
    heads, shared, length = (settings.get(key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if isinstance(heads, int) and isinstance(shared, int) and (heads < 1 or shared < 1 or heads % shared):
        raise fail("num_key_value_heads", shared, f"a number that divides {heads}, the attention heads")
    if isinstance(length, int) and (length < 1 or length % 2):
        raise fail("head_dim", length, "an even number")
    chosen = settings.get("num_experts_per_tok")
    experts = [count for key in EXPERTS if isinstance(count := settings.get(key), int) and count > 0]
    if experts and chosen is not None and not (type(chosen) is int and 1 <= chosen <= experts[0]):
        raise fail("num_experts_per_tok", chosen, f"1 to {experts[0]}, the experts")
    for name, hint in get_type_hints(arguments).items():
        kinds = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) - {type(None)}
        found = settings.get(name)
        if name == "intermediate_size" and _by_layer(found, settings.get("num_hidden_layers")):
            continue
        if kinds <= NUMBERS and isinstance(found, (str, list, dict)) and not name.endswith("token_id"):
            raise fail(name, found, "a number")


def _by_layer(found: Any, layers: Any) -> bool:
    """Whether a setting is a list with a number for each layer."""
    return isinstance(found, list) and len(found) == layers and all(type(one) in (int, float) for one in found)
