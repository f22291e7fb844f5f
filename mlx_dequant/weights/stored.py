"""A quantized weight as arrays alone: its own, and a text that says how the weight is made of them.

The text is JSON in UTF-8, the arguments of the weight's class besides the arrays:
{"family": "gptq", "bits": 4, "group_size": 128, "zero_points": "v1"}, and of a stack the number of "experts", whose
arguments these are. It is stored as uint8 [bytes] under
the name "mlx_dequant", so that whatever saves arrays by name saves what is needed to read them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import FormatError
from ..registry import FAMILIES, formats
from . import check, weight_class
from .base import QuantizedWeight
from .cut import Cut, Packing
from .stack import stack

NAME = "mlx_dequant"
LARGEST = 1 << 16


def description(weight: QuantizedWeight) -> mx.array:
    """The text that belongs to a weight's arrays, uint8 [bytes]."""
    settings = weight.settings
    if len(weight.shape) == 3:
        settings = weight[0].settings | {"experts": weight.experts}
    text = json.dumps({"family": weight.family, **settings}, sort_keys=True)
    return mx.array(np.frombuffer(text.encode(), np.uint8))


def packing_of(settings: Mapping[str, Any], act_order: bool) -> Packing:
    """How the weight of a description's settings can be cut.

    Raises:
        FormatError: they name no format.
    """
    family = FAMILIES[settings["family"]]
    name = str(settings.get("type", f"{family.prefix}{settings.get('bits')}")).lower()
    if name not in formats():
        raise FormatError(f"{NAME}: found format {name!r}, expected one of {', '.join(formats())}")
    size = settings.get("group_size", 0)
    return Packing(formats()[name], size if isinstance(size, int) else 0, act_order)


def restore(text: mx.array, arrays: Mapping[str, mx.array], cut: Cut | None = None) -> QuantizedWeight:
    """The weight of a description and of arrays by the names that `QuantizedWeight.arrays` has.

    Args:
        text: the description, uint8 [bytes].
        arrays: the arrays.
        cut: of which they hold only the rows or columns, if they do.

    Raises:
        FormatError: the description is none, or the arrays do not fit it.
    """
    settings = settings_of(text)
    family = settings.pop("family")
    kind = weight_class(family)
    for key in ("shape", "weight_shape"):
        if cut is not None and key in settings:
            whole = check.lengths(key, settings[key])
            cut.check(whole)
            settings[key] = cut.shape(whole)
    known = {name for name, _ in FAMILIES[family].arrays}
    if arrays.keys() - known:
        raise FormatError(f"{NAME}: found array {min(arrays.keys() - known)!r}, expected {', '.join(sorted(known))}")
    experts = settings.pop("experts", 0)
    try:
        if experts:
            return _stack(kind, settings, arrays, experts)
        return kind(**{kind.arguments.get(name, name): array for name, array in arrays.items()}, **settings)
    except TypeError as error:  # an argument that is missing, or one too many
        raise FormatError(f"{NAME}: found {shown(text)} and {', '.join(arrays) or 'no array'}: {error}") from None


def _stack(kind: type[Any], settings: dict[str, Any], arrays: Mapping[str, mx.array], experts: Any) -> QuantizedWeight:
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if lengths != {experts}:
        raise FormatError(f"{NAME}: experts: found arrays of {sorted(lengths)}, expected {experts}")
    each = ({kind.arguments.get(name, name): array[at] for name, array in arrays.items()} for at in range(experts))
    return stack([kind(**one, **settings) for one in each])


def shown(text: mx.array) -> str:
    """A description for messages."""
    return bytes(np.asarray(text.reshape(-1)[:200].astype(mx.uint8))).decode("utf-8", "replace")


def settings_of(text: mx.array) -> dict[str, Any]:
    """What a description says.

    Raises:
        FormatError: it is none, or of no known family.
    """
    if text.dtype != mx.uint8 or text.ndim != 1 or text.size > LARGEST:
        raise FormatError(f"{NAME}: found {text.dtype} {text.shape}, expected uint8 [bytes]")
    try:
        settings = json.loads(bytes(np.asarray(text)).decode())
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise FormatError(f"{NAME}: found {shown(text)!r}, expected a JSON object")
    family = settings.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise FormatError(f"{NAME}: family: found {family!r}, expected one of {', '.join(FAMILIES)}")
    return settings
