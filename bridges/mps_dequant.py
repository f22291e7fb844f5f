"""`vllm.model_executor.layers.quantization.utils.mps_dequant` of vLLM pull request 36523, on MLX.

No released vLLM has that module. Names, parameters, results and devices are the same. Three things are
better: weights cross the bridge once and products use them quantized; bfloat16 and float32 scales and
activations work; and every GGUF type, group_size=-1 and GPTQ with 2, 3 and 8 bits work.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch

from ..backends import current_backend
from ..errors import FormatError
from ..log import logger
from . import arguments, dequant_gguf, dequant_int4, shards
from .operators import operator

__all__ = [
    "_get_metal_dequant",
    "_get_metal_dequant_gguf",
    "_pytorch_dequant_awq",
    "_pytorch_dequant_gguf",
    "_pytorch_dequant_gptq",
    "awq_dequant_matmul",
    "gguf_dequant_matmul",
    "gguf_dequant_on_mps",
    "gptq_dequant_matmul",
]

AWQ_LINEAR = operator("awq", "linear")
GPTQ_LINEAR = operator("gptq", "linear")


@cache
def _get_metal_dequant() -> ModuleType:
    """The module of AWQ and GPTQ kernels."""
    _log_once()
    return dequant_int4


@cache
def _get_metal_dequant_gguf() -> ModuleType:
    """The module of GGUF kernels."""
    _log_once()
    return dequant_gguf


@cache
def _log_once() -> None:
    logger.info("mlx-dequant serves AWQ, GPTQ and GGUF weights with its %s backend", current_backend())


def _pytorch_dequant_awq(
    qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group_size: int
) -> torch.Tensor:
    """As `dequant_int4.dequantize_awq`: [in, out] in the scales' dtype, bit for bit what torch computes."""
    return dequant_int4.dequantize_awq(qweight, scales, qzeros, group_size)


def _pytorch_dequant_gptq(
    qweight: torch.Tensor,
    scales: torch.Tensor,
    qzeros: torch.Tensor,
    g_idx: torch.Tensor | None,
    group_size: int,
    use_v2_format: bool = False,
) -> torch.Tensor:
    """As `dequant_int4.dequantize_gptq`; zero points are stored minus one unless `use_v2_format`."""
    return dequant_int4.dequantize_gptq(qweight, scales, qzeros, g_idx, group_size, 0 if use_v2_format else 1)


def _pytorch_dequant_gguf(
    W: torch.Tensor, quant_type: int, m: int, n: int, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """As `dequant_gguf.dequantize_gguf`: [m, n] in `dtype`, float16 by default."""
    return dequant_gguf.dequantize_gguf(W, quant_type, m, n, dtype)


def awq_dequant_matmul(x: torch.Tensor, layer: Any, bias: torch.Tensor | None, quant_config: Any) -> torch.Tensor:
    """x through an AWQ layer whose weight stays quantized.

    Args:
        x: float16, bfloat16 or float32 [..., in], on the layer's device.
        layer: an object with `qweight`, `scales` and `qzeros`.
        bias: [out] or None.
        quant_config: an object with `group_size` and `pack_factor` (8).

    Returns:
        [..., qweight.shape[-1] * pack_factor] in x's dtype, differentiable in x and bias.

    Raises:
        FormatError: an argument does not fit; the message names it.
    """
    _check_pack_factor(quant_config, 4)
    arguments.together(qweight=layer.qweight, scales=layer.scales, qzeros=layer.qzeros)
    arguments.check_product(x, bias, layer.qweight)
    group_size = arguments.integer("group_size", quant_config.group_size)
    return AWQ_LINEAR(x, layer.qweight, layer.scales, layer.qzeros, group_size, bias)


def gptq_dequant_matmul(
    x: torch.Tensor, layer: Any, bias: torch.Tensor | None, quant_config: Any, use_v2_format: bool = False
) -> torch.Tensor:
    """x through a GPTQ layer whose weight stays quantized.

    Args:
        x: float16, bfloat16 or float32 [..., in], on the layer's device.
        layer: an object with `qweight`, `scales`, `qzeros` and `g_idx` (which may be empty).
        bias: [out] or None.
        quant_config: an object with `group_size`, and `weight_bits` or `bits` (2, 3, 4 or 8; 4 if neither is there).
        use_v2_format: whether zero points are stored unchanged, not minus one.

    Returns:
        [..., out] in x's dtype, differentiable in x and bias.

    Raises:
        FormatError: an argument does not fit; the message names it.
    """
    bits = _bits(quant_config)
    _check_pack_factor(quant_config, bits)
    g_idx = getattr(layer, "g_idx", None)
    named = {} if g_idx is None else {"g_idx": g_idx}
    arguments.together(qweight=layer.qweight, scales=layer.scales, qzeros=layer.qzeros, **named)
    arguments.check_product(x, bias, layer.qweight)
    group_size = arguments.integer("group_size", quant_config.group_size)
    zero_points = "v2" if use_v2_format else "v1-field"
    return GPTQ_LINEAR(x, layer.qweight, layer.scales, layer.qzeros, g_idx, group_size, zero_points, bits, bias)


def gguf_dequant_on_mps(
    W: torch.Tensor, quant_type: int, m: int, n: int, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """As `dequant_gguf.dequantize_gguf`: [m, n] in `dtype`, float16 by default, on W's device."""
    return dequant_gguf.dequantize_gguf(W, quant_type, m, n, dtype)


def gguf_dequant_matmul(x: torch.Tensor, layer: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x through a GGUF layer of vLLM whose weights stay packed, fused layers (q, k, v; gate, up) too.

    The pull request has no such function: it dequantizes each shard at each call.

    Args:
        x: float16, bfloat16 or float32 [..., in], on the layer's device.
        layer: an object with `qweight` and `qweight_type` as vLLM's loaders leave them: `qweight_type.weight_type`,
            or for several shards `qweight.shard_id`, `qweight.shard_offset_map` and
            `qweight_type.shard_weight_type`.
        bias: [out] or None.

    Returns:
        [..., out] in x's dtype, the shards side by side, differentiable in x and bias.

    Raises:
        FormatError: an argument does not fit; the message names it.
    """
    return shards.linear(x, layer, bias)


def _bits(quant_config: Any) -> int:
    for name in ("weight_bits", "bits"):
        value = getattr(quant_config, name, None)
        if value is not None:
            bits = arguments.integer(name, value)
            if bits not in arguments.BITS:
                raise FormatError(f"{name}: found {bits}, expected 2, 3, 4 or 8")
            return bits
    return 4


def _check_pack_factor(quant_config: Any, bits: int) -> None:
    """Checks the config's codes per word, if it has them; a fraction for 3 bits."""
    factor = getattr(quant_config, "pack_factor", None)
    if factor is not None and factor * bits != 32:
        raise FormatError(f"pack_factor: found {factor}, expected {32 / bits:g} codes of {bits} bits a word")
