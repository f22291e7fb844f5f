"""mlx-lm's model for a Hugging Face config, and a folder's weights under the names it gives them."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import Checkpoint
from ..weights import QuantizedWeight
from .build import Weight

# The type of placeholders. No weight has it, so a weight that mlx-lm computed from a placeholder shows.
PLACEHOLDER = mx.complex64


def config(path: Path) -> dict[str, Any]:
    """config.json, in the form that all of mlx-lm's models read.

    Transformers 5 moved the settings of rotary positions into `rope_parameters`. Many of mlx-lm's
    models, llama among them, do not read it and would use their defaults.
    """
    from mlx_lm.utils import load_config

    settings = load_config(path)
    rope = settings.get("rope_parameters")
    if isinstance(rope, dict):
        kinds = [key for key, value in rope.items() if isinstance(value, dict)]
        if kinds:
            _by_kind_of_layer(settings, rope, kinds)
        else:
            _flat(settings, rope)
    scaling = settings.get("rope_scaling")
    if isinstance(scaling, dict) and (scaling.get("rope_type") or scaling.get("type")) == "yarn":
        settings["rope_scaling"] = yarn(scaling)
    return settings


def _flat(settings: dict[str, Any], rope: dict[str, Any]) -> None:
    for key in ("rope_theta", "partial_rotary_factor"):
        if rope.get(key) is not None:
            settings.setdefault(key, rope[key])
    if (rope.get("rope_type") or "default") != "default":
        settings["rope_scaling"] = settings.get("rope_scaling") or rope


def _by_kind_of_layer(settings: dict[str, Any], rope: dict[str, Any], kinds: list[str]) -> None:
    """Gemma 3's layers that see everything, and those that see a window, have settings of their own."""
    if set(kinds) != {"full_attention", "sliding_attention"} or settings.get("model_type") != "gemma3_text":
        raise FormatError(
            f"config.json: rope_parameters: found {', '.join(kinds)} in a {settings.get('model_type')}, expected one "
            "set of them (full_attention and sliding_attention in a gemma3_text)"
        )
    near = rope["sliding_attention"]
    if (near.get("rope_type") or "default") != "default":
        found = near["rope_type"]
        raise FormatError(
            f"config.json: rope_parameters.sliding_attention.rope_type: found {found!r}, expected 'default'"
        )
    if "rope_theta" in near:
        settings.setdefault("rope_local_base_freq", near["rope_theta"])
    _flat(settings, rope["full_attention"])


def yarn(scaling: dict[str, Any]) -> dict[str, Any]:
    """YaRN's settings for mlx-lm, which computes the factor of attention from `mscale` and reads no other."""
    wanted, factor = scaling.get("attention_factor"), scaling.get("factor")
    if not scaling.get("truncate", True):
        raise FormatError("rope_scaling.truncate: found false, expected true: mlx-lm's YaRN rounds its range")
    scaling = {key: value for key, value in scaling.items() if value is not None}
    if wanted is None:
        if not (scaling.get("mscale") and scaling.get("mscale_all_dim")):
            scaling = {key: value for key, value in scaling.items() if key not in ("mscale", "mscale_all_dim")}
        return scaling
    if not isinstance(factor, (int, float)) or factor <= 1:
        raise FormatError(f"rope_scaling.factor: found {factor!r} beside an attention_factor, expected more than 1")
    return scaling | {"mscale": (wanted - 1) / (0.1 * math.log(factor)), "mscale_all_dim": 0}


def empty_model(config: dict[str, Any]) -> nn.Module:
    """The model, with weights that are never evaluated.

    Raises:
        FormatError: mlx-lm does not know the architecture.
    """
    from mlx_lm.utils import _get_classes

    try:
        model, arguments = _get_classes(config)
    except ValueError:
        raise FormatError(f"model_type: found {config['model_type']!r}, expected one of {_known()}") from None
    except KeyError:
        raise FormatError(f"config.json: found no model_type, expected one of {_known()}") from None
    except (Exception, SystemExit) as error:
        raise FormatError(
            f"model_type: found {config['model_type']!r}, which mlx-lm cannot import: {error!r}"
        ) from error
    _check_read(config, arguments)
    try:
        made = model(arguments.from_dict(config))
    except (Exception, SystemExit) as error:
        raise FormatError(f"config.json: found settings that mlx-lm's model does not take: {error!r}") from error
    _see_windows(made, config)
    return made


def _check_read(config: dict[str, Any], arguments: Any) -> None:
    """Refuses settings that mlx-lm's model would ignore."""
    known = inspect.signature(arguments).parameters
    share = config.get("partial_rotary_factor")
    if share not in (None, 1, 1.0) and not {"partial_rotary_factor", "text_config", "rope_parameters"} & set(known):
        raise FormatError(
            f"config.json: partial_rotary_factor: found {share}, expected 1: mlx-lm's {config['model_type']} ignores it"
        )


def _see_windows(model: Any, config: dict[str, Any]) -> None:
    """Mistral's layers all see a window; mlx-lm's llama knows that by `layer_types`, which Mistral's config lacks."""
    if config.get("model_type") == "mistral" and config.get("sliding_window") and not config.get("layer_types"):
        model.model.fa_idx = model.model.swa_idx = 0
        for layer in model.layers:
            layer.use_sliding = True


def _known() -> str:
    from pkgutil import iter_modules

    from mlx_lm import models

    return ", ".join(module.name for module in iter_modules(models.__path__))


def weights(checkpoint: Checkpoint, model: Any) -> dict[str, Weight]:
    """The model's weights by the names of its parameters, after the model's own renaming.

    Raises:
        FormatError: the model joins, splits or changes a quantized layer.
    """
    stored = dict(checkpoint.weights)
    arrays = {name: weight for name, weight in stored.items() if isinstance(weight, mx.array)}
    quantized = {f"{name}.weight": weight for name, weight in stored.items() if isinstance(weight, QuantizedWeight)}
    placeholders = {
        name: mx.zeros((weight.out_features, weight.in_features), PLACEHOLDER) for name, weight in quantized.items()
    }
    named: dict[str, mx.array] = {**arrays, **placeholders}
    parameters = dict(tree_flatten(model.parameters()))
    if hasattr(model, "sanitize"):
        named = model.sanitize(named)
    named = {name: array for name, array in named.items() if not _unused_bias(name, array, parameters)}
    owners = {id(array): quantized[name] for name, array in placeholders.items()}
    result: dict[str, Weight] = {name: owners.pop(id(array), array) for name, array in named.items()}
    for name, weight in result.items():
        if isinstance(weight, mx.array) and weight.dtype == PLACEHOLDER:
            raise FormatError(
                f"{checkpoint.path.name}: {name}: found packed layers that mlx-lm's model joins or splits, expected "
                "each to be one of its linear layers"
            )
    return result


def _unused_bias(name: str, array: mx.array, parameters: dict[str, mx.array]) -> bool:
    """Whether it is zeros that AutoGPTQ wrote for a layer that has no bias."""
    return name.endswith(".bias") and name not in parameters and not bool(mx.any(array))


def untie(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """A packed output layer is not the embedding, whatever the config says or leaves out."""
    if "lm_head" in checkpoint.weights:
        config["tie_word_embeddings"] = False
