"""mlx-lm's model for a Hugging Face config, and a folder's weights under the names it gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

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
    if isinstance(rope, dict) and "rope_theta" in rope:
        settings.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            settings["rope_scaling"] = settings.get("rope_scaling") or rope
    return settings


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
    return model(arguments.from_dict(config))


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
    if hasattr(model, "sanitize"):
        named = model.sanitize(named)
    owners = {id(array): quantized[name] for name, array in placeholders.items()}
    result: dict[str, Weight] = {name: owners.pop(id(array), array) for name, array in named.items()}
    for name, weight in result.items():
        if isinstance(weight, mx.array) and weight.dtype == PLACEHOLDER:
            raise FormatError(
                f"{checkpoint.path.name}: {name}: found packed layers that mlx-lm's model joins or splits, expected "
                "each to be one of its linear layers"
            )
    return result
