"""Models whose layers become packed ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from .. import fusing
from ..errors import FormatError
from ..weights import QuantizedWeight
from .layers import PackedEmbedding, PackedLayer, PackedLinear, PackedSwitchLinear, check_quantized


def pack_model(
    model: nn.Module,
    weights: Mapping[str, QuantizedWeight],
    strict: bool = True,
    dtype: mx.Dtype | None = None,
    fuse: bool = False,
) -> nn.Module:
    """Replaces a model's linear layers and embeddings by layers with quantized weights.

    These are its `nn.Linear` and `nn.Embedding`, and mlx-lm's `SwitchLinear`, which takes a stack of weights.

    Args:
        model: changed in place. Biases of its linear layers stay.
        weights: by the dotted names of layers, "model.layers.0.mlp.up_proj".
        strict: whether every linear layer and embedding must have a weight; otherwise those without one stay.
        dtype: type of the rows that embeddings return; each weight's own by default.
        fuse: whether layers that mlx-lm's models call with the same x share one product where their formats are equal:
            q_proj, k_proj and v_proj; gate_proj and up_proj; `mlx_dequant.fusing.siblings` has all names. Their
            arrays are copied into one, of which each layer has views. Results are those of separate layers. Nobody may
            change such an x in place (`x += 1`) between the calls of these layers, which know it by its identity.
            On a GPU, decoder layers that are called with a cache, and feed-forward modules, are also traced once for
            all that are alike (docs/mlx-lm.md).

    Returns:
        The model.

    Raises:
        FormatError: a name is not that of a linear layer or embedding, a shape does not fit, or a layer has no weight.
    """
    layers = packable(model)
    extra = sorted(weights.keys() - layers.keys())
    if extra:
        raise FormatError(f"weights: found {_listed(extra)}, expected names of the model's linear layers or embeddings")
    missing = sorted(layers.keys() - weights.keys())
    if missing and strict:
        raise FormatError(f"weights: found none for {_listed(missing)} (strict=False keeps those layers)")
    replacements: list[tuple[str, nn.Module]] = []
    for name, weight in weights.items():
        layer: Any = layers[name]
        check_quantized(f"layer {name!r}", weight)
        shape = (*weight.shape[:-2], weight.out_features, weight.in_features)
        if layer.weight.shape != shape:
            raise FormatError(f"layer {name!r}: found a weight of {shape}, expected {layer.weight.shape}")
        if isinstance(layer, nn.Embedding):
            packed: nn.Module = PackedEmbedding(weight, dtype)
        else:
            packed = (PackedLinear if len(shape) == 2 else PackedSwitchLinear)(weight, layer.get("bias"))
        replacements.append((name, packed))
    model.update_modules(tree_unflatten(replacements))
    if fuse:
        fuse_layers(model)
    return model


def fuse_layers(model: nn.Module) -> None:
    """What `pack_model` does with `fuse`, to a model that has its packed layers."""
    fusing.fuse_layers(model, PackedLinear, PackedLayer)


def replay_layers(model: nn.Module) -> None:
    """The part of `fuse_layers` that copies no array: on a GPU, layers that are alike are traced once."""
    fusing.replay_layers(model, PackedLayer)


def packable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that `pack_model` may replace, by name."""
    # A model that has such a layer has imported its module.
    switch = getattr(sys.modules.get("mlx_lm.models.switch_layers"), "SwitchLinear", nn.Linear)
    return {name: each for name, each in model.named_modules() if isinstance(each, (nn.Linear, nn.Embedding, switch))}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
