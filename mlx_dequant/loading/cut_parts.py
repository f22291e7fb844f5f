"""How the quantized modules of a folder can be cut, and parts of those whose tensors a weight takes as they are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .. import act_order
from ..registry import formats
from ..weights import check, weight_class
from ..weights.bitfields import WIDER
from ..weights.cut import Cut, Packing, Places, of_numpy
from .parts import Parts
from .settings import Settings

# The family whose arrays a layout's tensors are. Other layouts are converted when they are read.
FAMILIES = {"gptq": "gptq", "awq": "awq", "pack-quantized": "compressed_tensors"}
G_IDX = ("g_idx", "weight_g_idx")
# Inputs of an MXFP4 block, whatever the config says.
BLOCKS = {"mxfp4": 32, "modelopt_mxfp4": 32, "gpt-oss": 32}


def packing_of(parts: Parts, layout: str, settings: Settings) -> Packing:
    """How a module's weight can be cut."""
    family, bits = FAMILIES.get(layout, "compressed_tensors"), WIDER.get(settings.bits, 8)
    prefix = {"gptq": "gptq", "awq": "awq"}.get(family, "ct")
    name = f"{prefix}{bits}" if f"{prefix}{bits}" in formats() else f"ct{bits}"
    groups = _group_index(parts, settings.group_size)
    return Packing(formats()[name], BLOCKS.get(layout, settings.group_size), groups is not None)


def cut_parts(parts: Parts, layout: str, settings: Settings, cut: Cut) -> Parts | None:
    """The tensors of which a weight's rows or columns consist; None where its layout is converted."""
    family, bits = FAMILIES.get(layout), settings.bits
    straddles = family == "compressed_tensors" and bits not in (2, 4, 8)
    unpacked = parts.types.get("weight_zero_point") == "I8"
    if family is None or WIDER.get(bits) != bits or straddles or unpacked:
        return None
    packing, groups = packing_of(parts, layout, settings), _group_index(parts, settings.group_size)
    names = {tensor: array for array, tensor in weight_class(family).arguments.items()}

    def places(part: str) -> Places | None:
        return packing.places(names.get(part, part), cut)

    instead: dict[str, mx.array | None] = {}
    if "weight_shape" in parts:
        whole = check.lengths("weight_shape", parts.array("weight_shape"))
        cut.check(whole)
        instead["weight_shape"] = mx.array(cut.shape(whole))
    for name in G_IDX:
        if name in parts:
            kept = None if groups is None else of_numpy(groups, packing.places("g_idx", cut))
            instead[name] = None if kept is None else mx.array(kept)
    return parts.cut(places, instead)


def _group_index(parts: Parts, size: int) -> np.ndarray | None:
    """The group of each input, int32 [in]; None if it is input // group size."""
    name = next((name for name in G_IDX if name in parts), None)
    scales = "scales" if name == "g_idx" else "weight_scale"
    if name is None or scales not in parts or len(parts.shape(name)) != 1:
        return None
    values = np.asarray(parts.array(name)).astype(np.int64)
    if not values.size or (values == -1).all():
        return None
    groups = parts.shape(scales)[0 if name == "g_idx" else -1]
    return act_order.groups_of(name, values, groups, check.group_size(size, len(values)))
