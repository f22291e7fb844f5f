"""What Metal and CUDA share: a launch of a kernel under `metal/kernels` through `mx.fast`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..programs import DEQUANTIZE, INPUTS, Kernel, program
from ..registry import Format
from .launch import Region, sizes, whole

if TYPE_CHECKING:
    from ..weights.base import PackedWeight

Launch = Callable[..., list[mx.array]]


def dtype_name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


@cache
def kernel(target: str, form: Format, kernel: Kernel, dtype: str, scales: str) -> Launch:
    """The compiled kernel, as MLX gives it: call it with inputs, grid and shapes."""
    text = program(target, form, kernel, dtype, scales)
    arguments: dict[str, Any] = {
        "name": text.name,
        "input_names": [*(name for name, _ in INPUTS[form.family]), *kernel.inputs, "sizes"],
        "output_names": ["out"],
        "source": text.body,
        "header": text.header,
    }
    make: Any = mx.fast.metal_kernel if target == "metal" else mx.fast.cuda_kernel
    return make(**arguments)


def held(weight: PackedWeight) -> list[mx.array]:
    """The weight's arrays as the kernels want them.

    Absent ones are stood in for, and none has fewer than 8 elements: Metal would get it in
    another address space.
    """
    kept = weight.derived.get("gpu")
    if kept is None:
        kept = [_padded(weight.inputs[name]) for name, _ in INPUTS[weight.format.family]]
        mx.eval(kept)
        weight.derived["gpu"] = kept
    return kept


def _padded(array: mx.array | None) -> mx.array:
    if array is None:
        return mx.zeros(8, mx.int32)
    flat = array.reshape(-1)
    return array if flat.size >= 8 else mx.pad(flat, (0, 8 - flat.size))


def dequantize(target: str, weight: PackedWeight, dtype: mx.Dtype) -> mx.array:
    return region(target, weight, dtype, whole(weight)).reshape(weight.shape)


def region(target: str, weight: PackedWeight, dtype: mx.Dtype, part: Region) -> mx.array:
    """[part.rows, part.columns] weights, unpacked."""
    launch = kernel(target, weight.format, DEQUANTIZE, dtype_name(dtype), dtype_name(weight.scales_dtype))
    tiles = -(-part.rows // 8) * -(-part.columns // 256)
    (out,) = launch(
        inputs=[*held(weight), mx.array(sizes(weight, part), mx.uint32)],
        output_shapes=[(part.rows, part.columns)],
        output_dtypes=[dtype],
        grid=(tiles * DEQUANTIZE.threads, 1, 1),
        threadgroup=(DEQUANTIZE.threads, 1, 1),
    )
    return out
