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

# A type that no weight has: what mlx-lm computes from a stand-in, rather than renames, shows by it.
STAND_IN = mx.complex64


def config(path: Path) -> dict[str, Any]:
    """config.json, as all of mlx-lm's models read it.

    Transformers 5 moved the settings of rotary positions into `rope_parameters`, of which many of
    mlx-lm's models (llama's too) know nothing: they would take their defaults.
    """
    from mlx_lm.utils import load_config

    found = load_config(path)
    rope = found.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        found.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            found["rope_scaling"] = found.get("rope_scaling") or rope
    return found


def empty_model(config: dict[str, Any]) -> nn.Module:
    """The model with weights that nothing has computed, and nothing will.

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
        FormatError: the model joins, splits or changes a packed layer.
    """
    given = dict(checkpoint.weights)
    arrays = {name: weight for name, weight in given.items() if isinstance(weight, mx.array)}
    packed = {f"{name}.weight": weight for name, weight in given.items() if isinstance(weight, QuantizedWeight)}
    stand_ins = {name: mx.zeros((weight.out_features, weight.in_features), STAND_IN) for name, weight in packed.items()}
    named: dict[str, mx.array] = {**arrays, **stand_ins}
    if hasattr(model, "sanitize"):
        named = model.sanitize(named)
    owners = {id(array): packed[name] for name, array in stand_ins.items()}
    result: dict[str, Weight] = {name: owners.pop(id(array), array) for name, array in named.items()}
    for name, weight in result.items():
        if isinstance(weight, mx.array) and weight.dtype == STAND_IN:
            raise FormatError(
                f"{checkpoint.path.name}: {name}: found packed layers that mlx-lm's model joins or splits, expected "
                "each to be one of its linear layers"
            )
    return result
