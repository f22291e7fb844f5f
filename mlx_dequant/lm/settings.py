"""config.json as transformers understands it, in the form of mlx-lm's models. What these would ignore is refused."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import FormatError
from .settings_table import ALIASES, HARMLESS, LAYER_TYPES, ROWS, TEXTS, USUAL, Row

FILE = "config.json"


def fail(key: str, found: Any, expected: str) -> FormatError:
    return FormatError(f"{FILE}: {key}: found {found!r}, expected {expected}")


def names(arguments: type) -> set[str]:
    """The keys that a model of mlx-lm takes."""
    return set(inspect.signature(arguments).parameters)


def read(stored: Mapping[str, Any], arguments: type) -> dict[str, Any]:
    """The settings of a model, with those that the file leaves out.

    Args:
        stored: what config.json has, or its `text_config`.
        arguments: mlx-lm's `ModelArgs` of the model.

    Raises:
        FormatError: a key that nobody knows, or a value that mlx-lm's model would ignore.
    """
    kind = str(stored.get("model_type"))
    row = ROWS.get(TEXTS.get(kind, kind), Row())
    known = names(arguments)
    settings, other_names = completed(kind, stored)
    settings["model_type"] = TEXTS.get(kind, kind)
    _check_keys(kind, row, stored, known, other_names)
    for name, key in {**ALIASES, **other_names}.items():
        for one, other in ((name, key), (key, name)):
            if one in known and one not in settings and other in settings:
                settings[one] = settings[other]
    if "n_inner" in known and settings.get("n_inner") is None and isinstance(settings.get("n_embd"), int):
        settings["n_inner"] = 4 * settings["n_embd"]
    for key, value in row.sets.items():
        settings.setdefault(key, value)
    for key in row.needs:
        if settings.get(key) is None:
            raise fail(key, None, f"a number: mlx-lm's {kind} computes with one")
    fixed = {key: values for key, values in USUAL.items() if key not in known | {row.activation}}
    fixed |= row.fixed
    for key, values in fixed.items():
        value = settings.get(key)
        if value is not None and value not in values and key not in row.harmless:
            expected = " or ".join(map(repr, values or (None,)))
            raise fail(key, value, f"{expected}: mlx-lm's {kind} computes with that")
    _give_head(settings, "head_dim" in known or "head_dim" in row.harmless)
    return settings


def completed(kind: str, stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings with transformers' defaults and its form of rotary positions, and its other names of keys."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = dict(stored)
    if kind not in CONFIG_MAPPING:
        return settings, {}
    made: Any = CONFIG_MAPPING[kind]
    given = {key: value for key, value in stored.items() if key not in ("quantization_config", "torch_dtype", "dtype")}
    scaling = given.get("rope_scaling")
    if isinstance(scaling, dict) and "su" in (scaling.get("type"), scaling.get("rope_type")):
        given["rope_scaling"] = scaling | {"type": "longrope", "rope_type": "longrope"}  # Phi-3's first name for it
    try:
        config = made.from_dict(copy.deepcopy(given))
        if hasattr(config, "rope_parameters"):
            config.standardize_rope_params()  # again, as its models do, now that every key is there
        full = config.to_dict()
    except Exception as error:  # transformers checks in many ways
        raise FormatError(f"{FILE}: found settings that transformers' {kind} does not take: {error}") from error
    settings = {**full, **{key: value for key, value in settings.items() if value is not None or key not in full}}
    # What some classes correct: gemma's "gelu", for one, means the approximation by tanh.
    for key in ("rope_parameters", "sliding_window", "layer_types", "hidden_act", "tie_word_embeddings"):
        if key in full:
            settings[key] = full[key]
    if kind in LAYER_TYPES:
        settings["layer_types"] = [LAYER_TYPES[kind].get(each, each) for each in settings["layer_types"] or ()]
    return settings, dict(made.attribute_map)


def _check_keys(kind: str, row: Row, stored: Mapping[str, Any], known: set[str], names: Mapping[str, str]) -> None:
    known = known | HARMLESS | USUAL.keys() | row.fixed.keys() | set(row.harmless) | {"head_dim"}
    if isinstance(stored.get("text_config"), dict) or kind not in ROWS:  # `folder` compares it with the model
        known.add("tie_word_embeddings")
    for name, key in {**ALIASES, **names}.items():
        if {name, key} & known:
            known |= {name, key}
    unknown = sorted(key for key, value in stored.items() if value is not None and key not in known)
    if unknown:
        raise FormatError(
            f"{FILE}: {unknown[0]}: found {stored[unknown[0]]!r}, expected none such in a {kind} (mlx-lm does not read "
            f"it, nor {len(unknown) - 1} more; load(..., ignore=[{unknown[0]!r}]) leaves it out)"
        )


def _give_head(settings: dict[str, Any], free: bool) -> None:
    """The length of a head, which is the width shared among heads unless the model has a key for it."""
    found, width, heads = (settings.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1:
        return
    if not free and isinstance(found, int) and found * heads != width:
        raise fail("head_dim", found, f"{width} / {heads}, as mlx-lm's {settings['model_type']} has it")
    settings["head_dim"] = found or width // heads
