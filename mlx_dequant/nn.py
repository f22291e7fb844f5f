"""Layers whose weights stay quantized, for models written with `mlx.nn`.

A layer's parameters are the quantized arrays, by the names in their files ("blocks"; "qweight",
"scales", ...), so that counting bytes, saving and loading work as for any layer; and "mlx_dequant", a text of
some bytes that says what they are (`mlx_dequant.weights.stored`). These parameters are never trained, but
adapters on top of them are.

Assign a parameter to change it (`layer.scales = scales`, `layer.update(...)`): a layer does not notice what is written
into the array that it has (`layer.scales[0] = 0`). A function of `mx.compile` keeps the quantized arrays that a layer
had when it was traced, also where `inputs` names its state.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from . import dtypes, fusing, needs
from .errors import FormatError
from .ops import linear
from .ops.transforms import has_value
from .weights import QuantizedWeight, stored


class PackedLayer(nn.Module):
    """A layer whose weight stays quantized. Its kinds follow."""

    # mlx-lm takes a layer with `bits` to have weight.size * 32 // bits parameters.
    bits = 32
    axes = 2  # of the weight

    def __init__(self, weight: QuantizedWeight):
        super().__init__()
        self._weight: QuantizedWeight | None = None
        self.hold(weight)

    def hold(self, weight: QuantizedWeight) -> None:
        """Puts a weight in the place of the one before, of any shape. A bias stays."""
        _check_quantized("weight", weight)
        if len(weight.shape) != self.axes:
            expected = "a matrix" if self.axes == 2 else "a stack [experts, out, in]"
            raise FormatError(f"weight: found shape {weight.shape}, expected {expected}")
        for name in self._weight.arrays if self._weight is not None else ():
            self.pop(name, None)
        self._weight = weight
        # Other array objects than the weight's, on the same memory: MLX refuses to compile a function
        # whose graph contains arrays that are also passed as state.
        for name, array in weight.arrays.items():
            if array is not None:
                super().__setitem__(name, mx.stop_gradient(array))
        super().__setitem__(stored.NAME, stored.description(weight))

    @property
    def weight(self) -> QuantizedWeight:
        """The weight that consists of this layer's parameters."""
        if self._weight is None:
            raise RuntimeError(f"{type(self).__name__}: its arrays were given up, as mlx_lm's save does after saving")
        return self._weight

    def __setitem__(self, name: str, value: Any) -> None:
        # While `mx.compile` traces, it may assign placeholders without a value.
        if self._weight is not None and has_value(value):
            own: Any = self._weight.arrays.get(name)
            if own is not None and value.shape == (0,) != own.shape:
                self._weight = None  # mlx-lm's way to free a model's memory
            elif own is not None:
                self._weight = self._weight.replace(**{name: value})
                array: Any = self._weight.arrays[name]
                value = mx.stop_gradient(array)
            elif name == stored.NAME and value.size:
                expected = stored.description(self._weight)
                if not mx.array_equal(value, expected):
                    raise FormatError(f"{name}: found {stored.shown(value)}, expected {stored.shown(expected)}")
        super().__setitem__(name, value)

    # Every parameter, so that `unfreeze` on a model leaves this layer frozen.
    @property
    def _no_grad(self) -> set[str]:
        return set(self)

    @_no_grad.setter
    def _no_grad(self, names: set[str]) -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), dict(self.__dict__), dict(self))

    def _extra_repr(self) -> str:
        weight = self._weight
        if weight is None:
            return "given up"
        return f"{weight.format.title}, input_dims={weight.in_features}, output_dims={weight.out_features}"

    def unpacked(self) -> nn.Module:
        """The dense layer that takes this one's place: of the weight's type, an embedding of its rows' type."""
        own: Any = self
        return own.dense(getattr(own, "dtype", None) or self.weight.dtype)

    def to_quantized(self, *args: Any, **kwargs: Any) -> nn.Module:
        """This layer in MLX's own quantization, from dequantized weights; `mlx.nn.quantize` calls this.

        Takes the arguments of MLX's `Linear.to_quantized`.
        """
        layer: Any = self.unpacked()
        return layer.to_quantized(*args, **kwargs)


def _check_quantized(name: str, weight: Any) -> None:
    if not isinstance(weight, QuantizedWeight):
        raise FormatError(f"{name}: found {type(weight).__name__}, expected a quantized weight")


def _unpickled(kind: Any, state: dict[str, Any], arrays: dict[str, mx.array]) -> Any:
    layer = kind.__new__(kind)
    layer.__dict__.update(state)
    dict.update(layer, arrays)
    return layer


class PackedLinear(PackedLayer):
    """y = x Wᵀ + bias with a quantized W.

    Args:
        weight: a matrix of any format.
        bias: [out], added in x's type.
    """

    def __init__(self, weight: QuantizedWeight, bias: mx.array | None = None):
        super().__init__(weight)
        if bias is not None:
            if bias.shape != (weight.out_features,):
                raise FormatError(f"bias: found shape {bias.shape}, expected ({weight.out_features},)")
            self["bias"] = bias

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] float16, bfloat16 or float32 to [..., out] in x's type."""
        return linear(x, self._weight or self.weight, self.get("bias"))

    def dense(self, dtype: mx.Dtype = mx.float32) -> nn.Linear:
        """This layer with dequantized weights."""
        layer = nn.Linear(self.weight.in_features, self.weight.out_features, bias="bias" in self)
        layer.weight = rows(self.weight, dtype)
        if "bias" in self:
            layer["bias"] = self["bias"]
        return layer

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """This layer with a low-rank adapter; mlx-lm's training calls this."""
        weight = self.weight
        adapted: Any = _packed_lora()[0](weight.in_features, weight.out_features, r, dropout, scale)
        adapted.linear = self
        return adapted


@lru_cache
def _packed_lora() -> tuple[Any, Any]:
    """mlx-lm's adapters of a linear layer and of an embedding. Both `fuse` the sum into a dense float32 layer, also
    without `dequantize`: packed codes cannot hold it."""
    needs.mlx_lm("to_lora")
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

    class PackedLoRALinear(LoRALinear):
        def fuse(self, dequantize: bool = False) -> nn.Linear:
            inner: Any = self.linear
            fused: Any = inner.dense()
            fused.weight = fused.weight + (self.scale * self.lora_b.T) @ self.lora_a.T
            return fused

    class PackedLoRAEmbedding(LoRAEmbedding):
        def fuse(self, dequantize: bool = False) -> nn.Embedding:
            inner: Any = self.embedding
            fused: Any = inner.dense()
            fused.weight = fused.weight + self.scale * self.lora_a @ self.lora_b
            return fused

    return PackedLoRALinear, PackedLoRAEmbedding


class PackedSwitchLinear(PackedLayer):
    """y = x Wᵀ + bias with a quantized W for each expert: what mlx-lm's `SwitchLinear` is, in its place.

    Args:
        weight: a stack [experts, out, in] of any format.
        bias: [experts, out], added in x's type.
    """

    axes = 3

    def __init__(self, weight: QuantizedWeight, bias: mx.array | None = None):
        super().__init__(weight)
        if bias is not None:
            if bias.shape != weight.shape[:2]:
                raise FormatError(f"bias: found shape {bias.shape}, expected {weight.shape[:2]}")
            self["bias"] = bias

    @property
    def num_experts(self) -> int:
        return self.weight.experts

    @property
    def output_dims(self) -> int:
        return self.weight.out_features

    @property
    def input_dims(self) -> int:
        return self.weight.in_features

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x [..., rows, in] with experts `indices` [...], which broadcast: [..., rows, out] in x's type."""
        if x.ndim < 2:
            raise FormatError(f"x: found shape {x.shape}, expected [..., rows, {self.input_dims}]")
        shape = (*np.broadcast_shapes(x.shape[:-2], indices.shape), x.shape[-2])
        if x.shape[:-1] == (*shape[:-2], 1, 1) and indices.ndim:
            # A row of x for the experts of the last axis.
            y = self.weight.gather_linear(x.squeeze((-3, -2)), indices, sorted_indices)[..., None, :]
        else:
            ids = mx.broadcast_to(indices[..., None], shape)
            y = self.weight.gather_linear(mx.broadcast_to(x, (*shape, x.shape[-1])), ids, sorted_indices)
        if "bias" in self:
            bias: mx.array = self["bias"]
            y = y + mx.expand_dims(bias[indices].astype(y.dtype), -2)
        return y

    def dense(self, dtype: mx.Dtype = mx.float32) -> nn.Module:
        """mlx-lm's layer with dequantized weights."""
        needs.mlx_lm("PackedSwitchLinear.dense")
        from mlx_lm.models.switch_layers import SwitchLinear

        # One number is what it draws at random before it gets its weights.
        layer: Any = SwitchLinear(1, 1, 1, bias="bias" in self)
        layer.weight = self.weight.dequantize(dtype)
        if "bias" in self:
            layer["bias"] = self["bias"]
        return layer

    def _extra_repr(self) -> str:
        experts = "" if self._weight is None else f", num_experts={self.num_experts}"
        return super()._extra_repr() + experts


class PackedEmbedding(PackedLayer):
    """Rows of a quantized [vocabulary, dims] matrix.

    Args:
        weight: a matrix of any format.
        dtype: type of the rows: float32, float16 or bfloat16; the weight's own by default.
    """

    def __init__(self, weight: QuantizedWeight, dtype: mx.Dtype | None = None):
        super().__init__(weight)
        self._dtype = None if dtype is None else dtypes.name(dtypes.checked(dtype))  # an mx.Dtype cannot be copied

    @property
    def dtype(self) -> mx.Dtype | None:
        return None if self._dtype is None else dtypes.of(self._dtype)

    def __call__(self, ids: mx.array) -> mx.array:
        """ids of any shape to [*ids.shape, dims]."""
        return self.weight.take(ids, self.dtype)

    def dense(self, dtype: mx.Dtype = mx.float32) -> nn.Embedding:
        """This layer with dequantized weights."""
        layer = nn.Embedding(self.weight.out_features, self.weight.in_features)
        layer.weight = rows(self.weight, dtype)
        return layer

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., dims] to [..., vocabulary], for a model whose output layer is tied to this one."""
        return self.weight.linear(x)

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """This layer with a low-rank adapter; mlx-lm's training calls this where its `keys` name the embedding."""
        weight = self.weight
        adapted: Any = _packed_lora()[1](weight.out_features, weight.in_features, r, dropout, scale)
        adapted.embedding = self
        return adapted


def rows(weight: QuantizedWeight, dtype: mx.Dtype) -> mx.array:
    """The dequantized matrix [out, in]."""
    matrix = weight.dequantize(dtype)
    return matrix.T if weight.matrix.layout == "KN" else matrix


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
        _check_quantized(f"layer {name!r}", weight)
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
