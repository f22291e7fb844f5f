"""Tensor parallelism: each process of a group has a part of every layer, of packed ones in whole words, groups and
blocks. Attention is cut by heads, feed-forward blocks by their inner rows; parts may differ in size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import PackedLayer
from ..weights import QuantizedWeight
from ..weights.cut import ROWS, Packing, of_dense, of_vector
from .build import Weight
from .shard_layers import Part, Spread, Summed, become
from .shard_plan import HEADS, KEY_HEADS, SHARES, Plan, plan


def shard(model: nn.Module, group: mx.distributed.Group | None = None) -> nn.Module:
    """Cuts a whole model of mlx-lm in place, so that it runs over the processes of a group.

    What `model.shard` of mlx-lm does, for heads and rows that do not divide too. `mlx_dequant.lm.load(path, group=...)`
    does the same before it reads weights.

    Args:
        model: a model of `mlx_dequant.lm.load`, the same in each process.
        group: the processes; all of them by default.

    Returns:
        The model.

    Raises:
        FormatError: the type of model is not known here, or a layer cannot be cut into that many parts.
    """
    made: Any = model
    group = group or mx.distributed.init()
    layers = dict(model.named_modules())

    def units(name: str, columns: int) -> tuple[int, int]:
        layer = layers[name]
        if not isinstance(layer, PackedLayer):
            return 1, 1
        matrix = layer.weight.matrix
        return Packing(matrix.format, matrix.group_size, matrix.has_g_idx).units(columns)

    found = plan(made, made.model_type, group.rank(), group.size(), units)
    resize(model, found)
    distribute(model, found, group)
    mx.eval(model.parameters())
    return model


def resize(model: nn.Module, found: Plan) -> None:
    """Cuts the layers of a model, in place."""
    modules: dict[str, Any] = dict(model.named_modules())
    for name, cut in found.matrices.items():
        layer = modules[name]
        if isinstance(layer, PackedLayer):
            layer.hold(layer.weight.cut(cut))
        else:
            layer.weight = of_dense(layer.weight, cut)
    for parameter, cut in found.vectors.items():
        owner, _, own = parameter.rpartition(".")
        modules[owner][own] = of_vector(modules[owner][own], cut)
    for name, (heads, shared) in found.heads.items():
        counts = {**dict.fromkeys(HEADS, heads), **dict.fromkeys(KEY_HEADS, shared)}
        for key, value in (counts | dict.fromkeys(SHARES, heads // shared)).items():
            if hasattr(modules[name], key):
                setattr(modules[name], key, value)


def distribute(model: nn.Module, found: Plan, group: mx.distributed.Group) -> None:
    """Makes the layers of a cut model communicate."""
    modules: dict[str, Any] = dict(model.named_modules())
    for parameter in found.dropped:
        owner, _, own = parameter.rpartition(".")
        modules[owner].pop(own)
    for name in found.blocks:
        modules[name].sharding_group = group
    for name, cut in found.matrices.items():
        sums_itself = any(name.startswith(f"{block}.") for block in found.blocks)
        become(modules[name], Part if sums_itself else Spread if cut.axis == ROWS else Summed, group)


def fit(weights: Mapping[str, Weight], found: Plan) -> dict[str, Weight]:
    """The weights by parameter, where those that were read whole are cut."""
    result: dict[str, Weight] = {}
    for name, weight in weights.items():
        cut, vector = found.cut(name), found.vectors.get(name)
        if vector is not None:
            array = weight.dequantize(mx.float32) if isinstance(weight, QuantizedWeight) else weight
            weight = of_vector(array, vector)
        elif cut is not None and isinstance(weight, QuantizedWeight):
            length = weight.out_features if cut.axis == ROWS else weight.in_features
            weight = weight.cut(cut) if length == cut.length else weight
        elif cut is not None and isinstance(weight, mx.array):
            length = weight.shape[-2 if cut.axis == ROWS else -1]
            weight = of_dense(weight, cut) if length == cut.length else weight
        result[name] = weight
    return result
