"""Checks of the bridge's arguments. They need torch alone."""

from __future__ import annotations

from typing import Any

import torch

from ..checks import integer as integer
from ..errors import FormatError

# The float types of scales, of x and of results, by their names in `mlx_dequant.dtypes`.
FLOATS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
BITS = (2, 3, 4, 8)


def check_product(x: Any, bias: Any, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """x, and bias if there is one, by name, checked to be floats on the layer's device."""
    named = {"x": x} if bias is None else {"x": x, "bias": bias}
    together(qweight=like, **named)
    for name, tensor in named.items():
        float_name(name, tensor.dtype)
    return named


def check_last_axis(name: str, tensor: torch.Tensor, length: int) -> None:
    """Refuses a tensor whose last axis has another length."""
    if tensor.ndim == 0 or tensor.shape[-1] != length:
        raise FormatError(f"{name}: found shape {tuple(tensor.shape)}, expected a last axis of {length}")


def check_bias(bias: torch.Tensor | None, outputs: int) -> None:
    """Refuses a bias of another shape."""
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise FormatError(f"bias: found shape {tuple(bias.shape)}, expected ({outputs},)")


def float_name(name: str, dtype: Any) -> str:
    """The name of a float type; `name` is whose type it is."""
    if dtype not in FLOATS:
        raise FormatError(f"{name}: found {dtype}, expected float16, bfloat16 or float32")
    return FLOATS[dtype]


def gptq(qweight: Any, scales: Any, qzeros: Any, g_idx: Any) -> dict[str, Any]:
    """GPTQ's tensors by name; g_idx may be None or empty, and then is left out."""
    named = {"qweight": qweight, "scales": scales, "qzeros": qzeros}
    is_given = g_idx is not None and not (isinstance(g_idx, torch.Tensor) and g_idx.numel() == 0)
    return {**named, "g_idx": g_idx} if is_given else named


def compressed_tensors(
    weight_packed: Any, weight_scale: Any, weight_zero_point: Any, weight_g_idx: Any
) -> dict[str, Any]:
    """Compressed-tensors' tensors by name; the last two may be None, and then are left out."""
    optional = {"weight_zero_point": weight_zero_point, "weight_g_idx": weight_g_idx}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}
    return {"weight_packed": weight_packed, "weight_scale": weight_scale, **given}


def together(**tensors: Any) -> dict[str, torch.Tensor]:
    """The arguments by name, checked to be strided tensors on one device."""
    first: torch.Tensor | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{name}: found {type(tensor).__name__}, expected a torch.Tensor")
        if tensor.layout != torch.strided or tensor.is_nested:
            found = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
            raise FormatError(f"{name}: found {found}, expected torch.strided")
        if first is not None and tensor.device != first.device:
            raise FormatError(f"{name}: found device {tensor.device}, expected {first.device} as {next(iter(tensors))}")
        first = first if first is not None else tensor
    return tensors


def check_memory(name: str, tensor: torch.Tensor) -> None:
    """Refuses what has a shape but no values at its address, where a read would end the process.

    Such are FakeTensors, tensors inside vmap, those of classes that hold others (DTensor, MaskedTensor), zeros that
    were never made, and those whose storage was freed.
    """
    try:
        storage = tensor.untyped_storage()
        # A FakeTensor names a device, but its storage is on "meta".
        missing = storage.device.type == "meta" or (tensor.numel() > 0 and storage.data_ptr() == 0)
    except (RuntimeError, NotImplementedError):
        missing = True
    if missing:
        raise FormatError(
            f"{name}: found a {type(tensor).__name__} without memory, expected one with values. Inside torch.compile, "
            "export and vmap, call torch.ops.mlx_dequant"
        )
