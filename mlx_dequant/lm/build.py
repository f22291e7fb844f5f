"""Puts weights into mlx-lm's model. Quantized weights of linear layers and embeddings stay quantized."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import dtypes
from ..errors import FormatError
from ..nn import pack_model, packable
from ..registry import formats
from ..weights import GGUFWeight, QuantizedWeight

# Layers whose dense weights mlx-lm's Gemma 3n reads by itself.
DENSE = ("altup.correction_coefs", "altup.prediction_coefs")
Weight = QuantizedWeight | mx.array


def build(model: nn.Module, weights: Mapping[str, Weight], dtype: mx.Dtype) -> None:
    """Puts all weights into a model, in place, and prepares it for inference.

    A layer's matrix in another float type than `dtype` is not converted: it stays as it is stored, as
    a quantized weight does.

    Args:
        weights: weights by the names of the model's parameters.
        dtype: type of activations and of dense weights.

    Raises:
        FormatError: a parameter is missing, is not one of the model's, or has another shape.
    """
    parameters = dict(tree_flatten(model.parameters()))
    _check_names(weights, parameters)
    layers = {f"{name}.weight" for name in packable(model) if not name.endswith(DENSE)}
    is_cast = getattr(model, "cast_predicate", lambda name: True)
    quantized: dict[str, QuantizedWeight] = {}
    dense: list[tuple[str, mx.array]] = []
    for name, weight in weights.items():
        weight = (
            _as_stored(weight, dtype) if name in layers else _as_array(weight, dtype if is_cast(name) else mx.float32)
        )
        if isinstance(weight, QuantizedWeight):
            quantized[name.removesuffix(".weight")] = weight
        elif weight.shape != parameters[name].shape:
            raise FormatError(f"{name}: found shape {weight.shape}, expected {parameters[name].shape}")
        else:
            dense.append((name, weight))
    model.load_weights(dense, strict=False)
    pack_model(model, quantized, strict=False, dtype=dtype)
    model.eval()
    mx.eval(model.parameters())


def _check_names(weights: Mapping[str, Weight], parameters: Mapping[str, mx.array]) -> None:
    missing, extra = sorted(parameters.keys() - weights.keys()), sorted(weights.keys() - parameters.keys())
    if missing:
        instead = f"; found {extra[0]} and {len(extra) - 1} more, which it does not know" if extra else ""
        raise FormatError(f"{missing[0]}: not found, and {len(missing) - 1} more of the model's weights{instead}")
    if extra:
        raise FormatError(f"{extra[0]}: not a weight of mlx-lm's model, as {len(extra) - 1} more are not")


def _as_stored(weight: Weight, dtype: mx.Dtype) -> Weight:
    """The matrix of a linear layer or an embedding: a plain array only if its type is `dtype`."""
    if isinstance(weight, QuantizedWeight):
        return weight.dequantize() if weight.format.stored == dtypes.name(dtype) else weight
    kind = next((form.name for form in formats().values() if form.stored == dtypes.name(weight.dtype)), None)
    return weight if kind is None or weight.dtype == dtype else GGUFWeight(weight.view(mx.uint8), kind)


def _as_array(weight: Weight, dtype: mx.Dtype) -> mx.array:
    array = weight.dequantize(mx.float32) if isinstance(weight, QuantizedWeight) else weight
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
