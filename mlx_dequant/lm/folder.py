"""mlx-lm's model for a Hugging Face config, and a folder's weights under the names it gives them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from math import lcm
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import Checkpoint
from ..loading.mapped import read_json
from ..nn import rows
from ..weights import QuantizedWeight
from ..weights.cut import Cut
from ..weights.stack import stack_of
from . import gpt2, gpt_oss, numbers, rotary, settings, variants
from .build import Weight
from .settings_table import NESTED, ROWS, TEXTS, Row
from .tensors import (
    EMBEDDINGS,
    EXPERT,
    HEADS,
    PLACEHOLDER,
    are_equal,
    has_embedding,
    is_unused,
    place,
    prepared,
    with_embedding,
)


def config(path: Path, ignore: Collection[str] = ()) -> dict[str, Any]:
    """config.json, in the form that mlx-lm's model reads, with transformers' defaults.

    Args:
        path: the folder.
        ignore: keys to leave out.

    Raises:
        FormatError: the file is no JSON object, or has a key or a value that mlx-lm's model would ignore.
    """
    from mlx_lm.utils import load_config

    # mlx-lm opens both, whatever and however large they are.
    for name in ("config.json", "generation_config.json"):
        if (path / name).exists():
            read_json(path / name)
    with numbers.checked():
        stored = load_config(path)
    return read(stored, frozenset(ignore))


def read(stored: dict[str, Any], ignore: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What config.json says, in the form that mlx-lm's model reads, with transformers' defaults.

    Raises:
        FormatError: a key or a value that mlx-lm's model would ignore.
    """
    stored = {key: value for key, value in stored.items() if key not in ignore}
    with numbers.checked():
        numbers.check(stored)
        return _read(stored, ignore)


def _read(stored: dict[str, Any], ignore: frozenset[str]) -> dict[str, Any]:
    kind = stored.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise settings.fail("model_type", kind, "a name")
    arguments = classes(stored | {"model_type": TEXTS[kind]} if kind in TEXTS else stored)[1]
    if "text_config" in settings.names(arguments) and "hidden_size" in stored and "text_config" not in stored:
        # Qwen2-VL's form in transformers 4: the text's settings stand beside the pictures'.
        return stored | {"text_config": read(stored | {"model_type": f"{kind}_text"}, ignore)}
    result = settings.read(stored, arguments)
    text = stored.get("text_config")
    if isinstance(text, dict):
        # A model of pictures and text. Its own setting says whether the embedding is the output layer too.
        text = {"model_type": f"{kind}_text", **text}
        if "tie_word_embeddings" in result:
            text["tie_word_embeddings"] = result["tie_word_embeddings"]
        return result | {"text_config": read(text, ignore)}
    rotary.flatten(result)
    rotary.check(result, _row(result), settings.names(arguments))
    variants.check(result, settings.names(arguments))
    numbers.check_model(result, arguments)
    return result


def _row(config: dict[str, Any]) -> Row:
    return ROWS.get(config["model_type"], Row())


def classes(config: dict[str, Any]) -> tuple[type[nn.Module], Any]:
    """mlx-lm's classes of the model and of its settings.

    Raises:
        FormatError: mlx-lm does not know the architecture.
    """
    from mlx_lm.utils import _get_classes

    try:
        model, arguments = _get_classes(config | {"model_type": NESTED.get(config["model_type"], config["model_type"])})
        return model, _text_arguments(model) if config["model_type"] in NESTED else arguments
    except ValueError:
        raise FormatError(f"model_type: found {config['model_type']!r}, expected one of {_known()}") from None
    except KeyError:
        raise FormatError(f"config.json: found no model_type, expected one of {_known()}") from None
    except (Exception, SystemExit) as error:
        raise FormatError(
            f"model_type: found {config['model_type']!r}, which mlx-lm cannot import: {error!r}"
        ) from error


def _text_arguments(model: type[nn.Module]) -> Any:
    """The settings of the text model inside of a model of pictures and text."""
    modules = [sys.modules[kind.__module__] for kind in model.__mro__]
    found = (getattr(module, name, None) for module in modules for name in ("TextModelArgs", "TextConfig"))
    return next(filter(None, found))


def stock_model(config: Mapping[str, Any]) -> Any:
    """mlx-lm's own model of a config, with weights that are never evaluated."""
    model: Any
    model, arguments = classes(dict(config))
    made = model(arguments.from_dict(dict(config)))
    mx.eval(mx.random.state)  # or each draw of numbers would stay behind it, unevaluated
    return made


def empty_model(config: dict[str, Any]) -> nn.Module:
    """The model, with weights that are never evaluated.

    Raises:
        FormatError: mlx-lm does not know the architecture, or does not take the settings.
    """
    # What mlx-lm's model cannot scale, `rotary.replace` does.
    given = config | {"rope_scaling": None} if _row(config).rope else config
    try:
        made = stock_model(given)
        text = _text(made) if isinstance(config.get("text_config"), dict) else made
        inner = config.get("text_config") or config
        with numbers.checked():
            if _row(inner).rope:
                rotary.replace(text, inner)
            variants.change(text, inner)
        _check_head(text, inner)
    except FormatError:
        raise
    except (Exception, SystemExit) as error:
        raise FormatError(f"config.json: found settings that mlx-lm's model does not take: {error!r}") from error
    return made


def _check_head(model: nn.Module, config: dict[str, Any]) -> None:
    """Refuses an output layer where the embedding should be one, or the other way round, in a type without a row."""
    tied, kind = config.get("tie_word_embeddings"), config["model_type"]
    if kind in ROWS or tied is None or "tie_word_embeddings" in settings.names(classes(config)[1]):
        return
    if bool(tied) == any(name.endswith(HEADS) for name, _ in tree_flatten(model.parameters())):
        raise settings.fail("tie_word_embeddings", tied, f"{not tied}, as mlx-lm's {kind} is made")


def _text(model: Any) -> Any:
    """The text model inside of one of pictures and text."""
    return model.language_model if hasattr(model, "language_model") else model.model.language_model


def _known() -> str:
    from pkgutil import iter_modules

    from mlx_lm import models

    return ", ".join(module.name for module in iter_modules(models.__path__))


def units(checkpoint: Checkpoint) -> Callable[[str, int], tuple[int, int]]:
    """By the name of a module and its columns: by multiples of how many rows and columns its matrices can be cut."""
    names: dict[str, list[str]] = {}
    for name in checkpoint.weights:
        names.setdefault(place(name), []).append(name)

    def of(module: str, columns: int) -> tuple[int, int]:
        each = [checkpoint.weights.units(name, columns) for name in names.get(module, ())]
        return lcm(*(row for row, _ in each)), lcm(*(column for _, column in each))

    return of


def weights(checkpoint: Checkpoint, model: Any, cuts: Callable[[str], Cut | None] | None = None) -> dict[str, Weight]:
    """The model's weights by the names of its parameters, after the model's own renaming.

    Matrices for which `cuts` has a cut are read in part. Experts are read one by one while their stack is filled, so
    that none but one exists twice.

    Raises:
        FormatError: the model joins, splits or changes a quantized layer.
    """

    def read(name: str) -> Weight:
        return checkpoint.weights.part(name, cuts(place(name)) if cuts else None)

    experts = [name for name in checkpoint.weights if EXPERT.search(name)]
    stored: dict[str, Weight] = {name: read(name) for name in checkpoint.weights if not EXPERT.search(name)}
    kind = str(getattr(model, "model_type", ""))
    other_names = {"gpt2": gpt2.renamed, "gpt_oss": gpt_oss.separate}.get(kind)
    stored = other_names(stored) if other_names else stored
    parameters = dict(tree_flatten(model.parameters()))
    stored = with_embedding(stored, parameters)
    arrays = {name: weight for name, weight in stored.items() if isinstance(weight, mx.array)}
    quantized = {f"{name}.weight": weight for name, weight in stored.items() if isinstance(weight, QuantizedWeight)}
    # Where the model absorbs this layer into its attention, it splits its matrix.
    for name in [name for name in quantized if name.endswith(".kv_b_proj.weight") and name not in parameters]:
        arrays[name] = rows(quantized.pop(name), mx.float32)
    placeholders = {
        name: mx.zeros((weight.out_features, weight.in_features), PLACEHOLDER) for name, weight in quantized.items()
    }
    # A number says which expert's place it is, in the stack that the model makes of them, too.
    places = {f"{name}.weight": mx.full((1, 1), number, PLACEHOLDER) for number, name in enumerate(experts)}
    named: dict[str, mx.array] = {**arrays, **placeholders, **places}
    if hasattr(model, "sanitize"):
        try:
            named = model.sanitize(prepared(kind, named))
        except FormatError as error:
            raise FormatError(f"{checkpoint.path.name}: {error}") from None
        except Exception as error:  # mlx-lm's models expect the tensors of their architecture
            raise FormatError(
                f"{checkpoint.path.name}: found tensors that mlx-lm's model does not rename: {error!r}"
            ) from error
    named = {name: array for name, array in named.items() if name in parameters or not is_unused(name, named)}
    owners = {id(array): quantized[name] for name, array in placeholders.items()}
    result: dict[str, Weight] = {}
    for name, array in named.items():
        weight = owners.pop(id(array), array)
        if isinstance(weight, mx.array) and weight.dtype == PLACEHOLDER and weight.shape[-2:] == (1, 1):
            names = [experts[number] for number in _numbers(weight)]
            weight = _experts(checkpoint, read, names, name, weight.ndim == 3)
        if isinstance(weight, mx.array) and weight.dtype == PLACEHOLDER:
            raise FormatError(
                f"{checkpoint.path.name}: {name}: found packed layers that mlx-lm's model joins or splits, expected "
                "each to be one of its linear layers"
            )
        result[name] = weight
    return result


def _numbers(places: mx.array) -> list[int]:
    values: Any = places.reshape(-1).tolist()
    return [int(value.real) for value in values]


def _experts(
    checkpoint: Checkpoint, read: Callable[[str], Weight], names: list[str], parameter: str, stacked: bool
) -> Weight:
    """The weight of an expert, or the stack of several."""
    if not stacked:
        return read(names[0])
    try:
        return stack_of(len(names), map(read, names))
    except FormatError as error:
        raise FormatError(f"{checkpoint.path.name}: {parameter}: {error}; weights[0] is {names[0]}") from None


def untie(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """An output layer of its own is not the embedding, whatever the config says or leaves out.

    Raises:
        FormatError: mlx-lm's model has no place for it.
    """
    text: dict[str, Any] = config.get("text_config") or config
    head = next((name for name in checkpoint.weights if name.removesuffix(".weight").endswith("lm_head")), None)
    if head is None or not text.get("tie_word_embeddings") or _is_embedding(head, checkpoint):
        return
    if "tie_word_embeddings" not in settings.names(classes(text)[1]):
        raise FormatError(
            f"{checkpoint.path.name}: {head}: found an output layer, expected the embedding: mlx-lm's "
            f"{text['model_type']} has none"
        )
    text["tie_word_embeddings"] = False


def _is_embedding(head: str, checkpoint: Checkpoint) -> bool:
    """Whether the output layer is a copy of the embedding, or in the place of one."""
    if not has_embedding(checkpoint.weights):
        return True
    embedding = next((name for name in checkpoint.weights if name.endswith(EMBEDDINGS)), None)
    return embedding is not None and are_equal(checkpoint.weights[head], checkpoint.weights[embedding])
