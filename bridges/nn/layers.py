"""Linear layers and embeddings of torch that hold a checkpoint's quantized tensors, by the checkpoint's names.

The tensors are buffers, frozen: `requires_grad_` and optimizers leave them alone, and `half()` or `to(dtype)` keeps
their types. A bias is a parameter. Products, gradients, torch.compile and export go through the operators of
`mlx_dequant.bridges.operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ... import dtypes
from ...errors import FormatError
from ...registry import formats, gguf_format
from ...zero_points import named
from .. import targets
from ..arguments import FLOATS
from ..operators import operator

if TYPE_CHECKING:
    import mlx.core as mx

    from ...weights import QuantizedWeight


class _Packed(nn.Module):
    """What holds quantized tensors: buffers that keep their types."""

    def _hold(self, device: Any, **tensors: tuple[torch.dtype, tuple[int, ...]] | None) -> None:
        for name, kind in tensors.items():
            tensor = None if kind is None else torch.zeros(kind[1], dtype=kind[0], device=device)
            self.register_buffer(name, tensor)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        quantized = {id(buffer) for buffer in self._buffers.values()}

        def same_type(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            kept = id(tensor) not in quantized or result.dtype == tensor.dtype
            return result if kept else tensor.to(result.device)

        return super()._apply(same_type, recurse)


class _PackedLinear(_Packed, nn.Linear):
    """A linear layer. It is an `nn.Linear`, so that adapters (LoRA) are put on it, but has no dense weight."""

    family: ClassVar[str]
    # From the names of a weight's arrays to the layer's.
    arrays: ClassVar[Mapping[str, str]]

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: Any):
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None
        )

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        """What the class is made with for a weight of its family."""
        raise NotImplementedError

    def operands(self) -> tuple[Any, ...]:
        """The weight, as the operators of its family take it."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] float16, bfloat16 or float32 to [..., out] in x's type."""
        return operator(self.family, "linear")(x, *self.operands(), self.bias)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The dense weight [out, in] of an `nn.Linear`; in the scales' type by default, float16 for GGUF."""
        stored = operator(self.family, "dequantize")(*self.operands(), dtype)
        return stored if self.family in ("compressed_tensors", "gguf") else stored.T

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def reset_parameters(self) -> None:
        """Nothing: packed weights come from a checkpoint."""

    def _take(self, weight: QuantizedWeight, device: Any) -> None:
        """Takes a weight's arrays as buffers. The weight is used as it is: nothing is copied where memory is shared."""
        for name, ours in self.arrays.items():
            array = weight.arrays[name]
            if array is not None:
                self._buffers[ours] = _crossed(array, device)
        targets.adopt(self.family, self.operands(), weight)


class _GroupLinear(_PackedLinear):
    """A layer with scales of groups."""

    codes: ClassVar[str] = "qweight"

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The codes, for code that asks a linear layer's weight for its device."""
        return getattr(self, self.codes)


class AWQLinear(_GroupLinear):
    """y = x W + bias with AWQ's 4-bit weights: qweight int32 [in, out/8], qzeros int32 [groups, out/8],
    scales [groups, out].

    Args:
        group_size: inputs in a group; -1 for a single group.
        dtype: type of the scales and of the bias.
    """

    family = "awq"
    arrays: ClassVar = {"qweight": "qweight", "qzeros": "qzeros", "scales": "scales"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        group_size: int = 128,
        dtype: torch.dtype = torch.float16,
        device: Any = None,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.group_size = group_size
        groups = _groups(in_features, group_size)
        self._hold(
            device,
            qweight=(torch.int32, (in_features, out_features // 8)),
            qzeros=(torch.int32, (groups, out_features // 8)),
            scales=(dtype, (groups, out_features)),
        )

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        return _group_settings(weight)

    def operands(self) -> tuple[Any, ...]:
        return self.qweight, self.scales, self.qzeros, self.group_size


class GPTQLinear(_GroupLinear):
    """y = x W + bias with GPTQ's weights: qweight int32 [in*bits/32, out], qzeros int32 [groups, out*bits/32],
    scales [groups, out], g_idx int32 [in].

    Args:
        bits: 2, 3, 4 or 8.
        group_size: inputs in a group; -1 for a single group.
        zero_points: "v1", "v1-field" or "v2", as for `mlx_dequant.GPTQWeight`.
        dtype: type of the scales and of the bias.
    """

    family = "gptq"
    arrays: ClassVar = {**AWQLinear.arrays, "g_idx": "g_idx"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        group_size: int = 128,
        bits: int = 4,
        zero_points: str = "v1",
        dtype: torch.dtype = torch.float16,
        device: Any = None,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.group_size, self.bits, self.zero_points = group_size, bits, zero_points
        groups = _groups(in_features, group_size)
        self._hold(
            device,
            qweight=(torch.int32, (in_features * bits // 32, out_features)),
            qzeros=(torch.int32, (groups, out_features * bits // 32)),
            scales=(dtype, (groups, out_features)),
        )
        size = in_features if group_size == -1 else group_size
        self.register_buffer("g_idx", torch.arange(in_features, dtype=torch.int32, device=device) // max(size, 1))

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        zero_points = named(weight.matrix.loader_params)
        return {**_group_settings(weight), "bits": weight.format.bits, "zero_points": zero_points}

    def operands(self) -> tuple[Any, ...]:
        return self.qweight, self.scales, self.qzeros, self.g_idx, self.group_size, self.zero_points, self.bits


class CompressedTensorsLinear(_GroupLinear):
    """y = x Wᵀ + bias with "pack-quantized" weights: weight_packed int32 [out, in*bits/32], weight_scale [out, groups],
    weight_shape int64 [2], and on request weight_zero_point int32 [out*bits/32, groups] and weight_g_idx int32 [in].

    Args:
        bits: 2, 3, 4 or 8.
        group_size: inputs in a group; -1 for a single group.
        symmetric: whether there are no zero points.
        act_order: whether there is a weight_g_idx.
        dtype: type of the scales and of the bias.
    """

    family = "compressed_tensors"
    codes = "weight_packed"
    arrays: ClassVar = {
        "codes": "weight_packed",
        "scales": "weight_scale",
        "zeros": "weight_zero_point",
        "g_idx": "weight_g_idx",
    }

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        group_size: int = 128,
        bits: int = 4,
        symmetric: bool = True,
        act_order: bool = False,
        dtype: torch.dtype = torch.float16,
        device: Any = None,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.group_size, self.bits = group_size, bits
        groups = _groups(in_features, group_size)
        self._hold(
            device,
            weight_packed=(torch.int32, (out_features, -(-in_features * bits // 32))),
            weight_scale=(dtype, (out_features, groups)),
            weight_zero_point=None if symmetric else (torch.int32, (-(-out_features * bits // 32), groups)),
            weight_g_idx=(torch.int32, (in_features,)) if act_order else None,
        )
        self.register_buffer("weight_shape", torch.tensor([out_features, in_features], device=device))

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        absent = {name: weight.arrays[name] is None for name in ("zeros", "g_idx")}
        more = {"symmetric": absent["zeros"], "act_order": not absent["g_idx"]}
        return {**_group_settings(weight), "bits": weight.format.bits, **more}

    def operands(self) -> tuple[Any, ...]:
        tensors = self.weight_packed, self.weight_scale, self.weight_zero_point, self.weight_g_idx
        return *tensors, self.out_features, self.in_features, self.group_size, self.bits


class GGUFLinear(_PackedLinear):
    """y = x Wᵀ + bias with a GGUF tensor: weight uint8 [out, row bytes], the file's blocks.

    Args:
        quant_type: a name ("Q4_K", any case) or GGUF's number of the type.
        dtype: type of the bias.
    """

    family = "gguf"
    arrays: ClassVar = {"blocks": "weight"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        quant_type: str | int = "Q4_K",
        dtype: torch.dtype = torch.float16,
        device: Any = None,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.quant_type, row_bytes = _blocks(quant_type, in_features)
        self._hold(device, weight=(torch.uint8, (out_features, row_bytes)))

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        return {"quant_type": weight.format.ggml_type}

    def operands(self) -> tuple[Any, ...]:
        return self.weight, self.quant_type, self.out_features, self.in_features


class GGUFEmbedding(_Packed):
    """Rows of a GGUF tensor: weight uint8 [num_embeddings, row bytes].

    Args:
        quant_type: a name ("Q4_K", any case) or GGUF's number of the type.
        dtype: type of the rows: float16, bfloat16 or float32.
        scale: what the rows are multiplied by, in `dtype`, as Gemma's are.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        quant_type: str | int = "Q4_K",
        dtype: torch.dtype = torch.float16,
        scale: float = 1.0,
        device: Any = None,
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.dtype, self.scale = num_embeddings, embedding_dim, dtype, scale
        self.quant_type, row_bytes = _blocks(quant_type, embedding_dim)
        self._hold(device, weight=(torch.uint8, (num_embeddings, row_bytes)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids of any shape to [*ids.shape, embedding_dim]."""
        shape = self.num_embeddings, self.embedding_dim
        rows = operator("gguf", "embedding")(ids, self.weight, self.quant_type, *shape, self.dtype)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale, dtype=self.dtype, device=rows.device)

    def as_linear(self) -> GGUFLinear:
        """The output layer of a model that ties it to this embedding: on the same tensor, without a copy."""
        layer = GGUFLinear(self.embedding_dim, self.num_embeddings, quant_type=self.quant_type, device="meta")
        layer._buffers["weight"] = self.weight
        return layer

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def packed_linear(weight: QuantizedWeight, device: Any = None) -> _PackedLinear:
    """The linear layer of a quantized weight, without a bias.

    Args:
        weight: a matrix of any format.
        device: "mps" or "cpu", which share the weight's memory, or "cuda"; by default as for `to_torch`.
    """
    if len(weight.shape) != 2:
        raise FormatError(f"weight: found shape {weight.shape}, expected a matrix")
    import mlx.core as mx

    target = _crossed(mx.zeros(1), device).device
    kind = LINEARS[weight.family]
    layer = kind(weight.in_features, weight.out_features, **kind.settings(weight), device=target)
    layer._take(weight, target)
    return layer


def packed_embedding(weight: QuantizedWeight, dtype: torch.dtype, scale: float, device: Any) -> GGUFEmbedding:
    """The embedding of a GGUF weight."""
    shape = weight.out_features, weight.in_features
    layer = GGUFEmbedding(*shape, weight.format.ggml_type, dtype, scale, device="meta")
    layer._buffers["weight"] = _crossed(weight.arrays["blocks"], device)
    targets.adopt("gguf", (layer.weight, layer.quant_type, *shape), weight)
    return layer


def _crossed(array: mx.array | None, device: Any) -> torch.Tensor:
    """An array of MLX as a tensor. Layers of torch tensors need no MLX, so it is imported here."""
    from ..torch import to_torch

    assert array is not None
    return to_torch(array, device)


LINEARS: dict[str, type[_PackedLinear]] = {
    layer.family: layer for layer in (AWQLinear, GPTQLinear, CompressedTensorsLinear, GGUFLinear)
}


def _groups(inputs: int, size: int) -> int:
    return 1 if size == -1 else -(-inputs // size)


def _group_settings(weight: QuantizedWeight) -> dict[str, Any]:
    size = weight.matrix.group_size
    dtype = next(ours for ours, name in FLOATS.items() if name == dtypes.name(weight.dtype))
    return {"group_size": -1 if size == 2**31 else size, "dtype": dtype}


def _blocks(quant_type: str | int, columns: int) -> tuple[int, int]:
    """GGUF's number of a type, and the bytes of a row."""
    form = gguf_format(quant_type)
    if form is None:
        known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
        raise FormatError(f"quant_type: found {quant_type!r}, expected one of {known}")
    if columns % form.weights:
        raise FormatError(f"in_features: found {columns}, expected a multiple of {form.weights} ({form.title})")
    return form.ggml_type, columns // form.weights * form.bytes
