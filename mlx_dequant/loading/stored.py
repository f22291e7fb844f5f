"""Folders that this package wrote: each packed module has its arrays, and a description of them beside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

import mlx.core as mx

from ..errors import FormatError
from ..weights import QuantizedWeight
from ..weights.stored import NAME, restore

# Its quant_method in config.json.
METHOD = "mlx-dequant"


def described(names: Iterable[str]) -> set[str]:
    """The modules that have a description among tensors."""
    return {name.removesuffix(f".{NAME}") for name in names if name.endswith(f".{NAME}")}


def modules(tensors: Iterable[str]) -> dict[str, list[str]]:
    """The tensors of each module that has a description, without biases."""
    names = list(tensors)
    found: dict[str, list[str]] = {module: [] for module in described(names)}
    for name in names:
        module, _, part = name.rpartition(".")
        if module in found and part != "bias":
            found[module].append(name)
    return found


def readers(
    tensors: Collection[str], read: Callable[[str], mx.array], place: str
) -> dict[str, Callable[[], QuantizedWeight | mx.array]]:
    """What reads a folder's weights, by name; empty for a folder of another tool.

    Args:
        tensors: the names of its tensors.
        read: reads one.
        place: the folder's name, for messages.
    """
    ours = modules(tensors)
    module_of = {name: module for module, names in ours.items() for name in names}
    result: dict[str, Callable[[], QuantizedWeight | mx.array]] = {}
    for name in tensors if ours else ():
        module = module_of.get(name)
        result[module or name] = partial(_read, read, place, module, ours[module]) if module else partial(read, name)
    return result


def _read(read: Callable[[str], mx.array], place: str, module: str, names: list[str]) -> QuantizedWeight:
    arrays = {name.removeprefix(f"{module}."): read(name) for name in names}
    try:
        return restore(arrays.pop(NAME), arrays)
    except FormatError as error:
        raise FormatError(f"{place}: module {module!r}: {error}") from None
