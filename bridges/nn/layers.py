"""Linear layers of torch that hold AWQ, GPTQ or compressed-tensors weights, by the checkpoints' own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ... import checks, dtypes
from ...errors import FormatError
from ...group_shapes import whole_words
from ...zero_points import ZERO_POINTS, named
from ..arguments import BITS, FLOATS
from .base import GroupLinear, PackedLinear, crossed
from .gguf_layers import GGUFLinear

if TYPE_CHECKING:
    from ...weights import QuantizedWeight


class AWQLinear(GroupLinear):
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
        _check_words("out_features", out_features, 4)
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


class GPTQLinear(GroupLinear):
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
        checks.one_of("bits", bits, BITS)
        checks.one_of("zero_points", zero_points, ZERO_POINTS)
        _check_words("in_features", in_features, bits)
        _check_words("out_features", out_features, bits)
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


class CompressedTensorsLinear(GroupLinear):
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
        checks.one_of("bits", bits, BITS)
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


def packed_linear(weight: QuantizedWeight, device: Any = None) -> PackedLinear:
    """The linear layer of a quantized weight, without a bias.

    Args:
        weight: a matrix of any format.
        device: "mps" or "cpu", which share the weight's memory, or "cuda"; by default as for `to_torch`.
    """
    if len(weight.shape) != 2:
        raise FormatError(f"weight: found shape {weight.shape}, expected a matrix")
    import mlx.core as mx

    target = crossed(mx.zeros(1), device).device
    kind = LINEARS[weight.family]
    layer = kind(weight.in_features, weight.out_features, **kind.settings(weight), device=target)
    layer._take(weight, target)
    return layer


LINEARS: dict[str, type[PackedLinear]] = {
    layer.family: layer for layer in (AWQLinear, GPTQLinear, CompressedTensorsLinear, GGUFLinear)
}


def _groups(inputs: int, size: int) -> int:
    return -(-inputs // checks.group_size(size, inputs))


def _check_words(name: str, count: int, bits: int) -> None:
    """Refuses codes that do not fill whole words."""
    step = whole_words(bits)
    if count % step:
        raise FormatError(f"{name}: found {count}, expected a multiple of {step} (codes of {bits} bits)")


def _group_settings(weight: QuantizedWeight) -> dict[str, Any]:
    size = weight.matrix.group_size
    dtype = next(ours for ours, name in FLOATS.items() if name == dtypes.name(weight.dtype))
    return {"group_size": -1 if size == 2**31 else size, "dtype": dtype}
