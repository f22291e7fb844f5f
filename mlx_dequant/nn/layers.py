"""The layers, and a layer's dense matrix."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import dtypes, needs
from ..errors import FormatError
from ..ops import linear
from ..ops.transforms import has_value
from ..weights import QuantizedWeight, stored
from .lora import packed_lora


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
        check_quantized("weight", weight)
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


def check_quantized(name: str, weight: Any) -> None:
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
        adapted: Any = packed_lora()[0](weight.in_features, weight.out_features, r, dropout, scale)
        adapted.linear = self
        return adapted


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
        adapted: Any = packed_lora()[1](weight.out_features, weight.in_features, r, dropout, scale)
        adapted.embedding = self
        return adapted


def rows(weight: QuantizedWeight, dtype: mx.Dtype) -> mx.array:
    """The dequantized matrix [out, in]."""
    matrix = weight.dequantize(dtype)
    return matrix.T if weight.matrix.layout == "KN" else matrix
