"""Folders that this package wrote: each packed module has its arrays, and a description of them beside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

import mlx.core as mx

from ..errors import FormatError
from ..weights import QuantizedWeight
from ..weights.cut import Cut, Packing
from ..weights.stored import NAME, packing_of, restore, settings_of

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
    tensors: Collection[str], read: Callable[..., mx.array], place: str
) -> dict[str, Callable[..., QuantizedWeight | mx.array]]:
    """What reads a folder's weights, by name; empty for a folder of another tool.

    Args:
        tensors: the names of its tensors.
        read: reads one.
        place: the folder's name, for messages.
    """
    ours = modules(tensors)
    module_of = {name: module for module, names in ours.items() for name in names}
    result: dict[str, Callable[..., QuantizedWeight | mx.array]] = {}
    for name in tensors if ours else ():
        module = module_of.get(name)
        result[module or name] = partial(_read, read, place, module, ours[module]) if module else partial(read, name)
    return result


def packing(tensors: Collection[str], read: Callable[..., mx.array], name: str) -> Packing | None:
    """How a module can be cut; None for a tensor."""
    own = f"{name}.{NAME}"
    if own not in tensors:
        return None
    return packing_of(settings_of(read(own)), f"{name}.g_idx" in tensors)


def _read(
    read: Callable[..., mx.array], place: str, module: str, names: list[str], cut: Cut | None = None
) -> QuantizedWeight:
    try:
        text = read(f"{module}.{NAME}")
        arrays = {name.removeprefix(f"{module}."): name for name in names if not name.endswith(f".{NAME}")}
        if cut is None:
            return restore(text, {array: read(name) for array, name in arrays.items()})
        held = packing_of(settings_of(text), "g_idx" in arrays)
        part = {array: read(name, places=held.places(array, cut)) for array, name in arrays.items()}
        return restore(text, part, cut)
    except FormatError as error:
        raise FormatError(f"{place}: module {module!r}: {error}") from None
