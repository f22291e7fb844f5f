"""The text that MLX gives NVRTC for a kernel of ours; MLX prints it on machines with CUDA only."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_TYPES = {
    mx.float32: "float",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.uint8: "uint8_t",
    mx.int32: "int32_t",
    mx.uint32: "uint32_t",
}
_BEFORE = '#include "mlx/backend/cuda/device/utils.cuh"\n#include <cooperative_groups.h>\n'


def cuda_text(kernel: dict[str, Any], call: dict[str, Any]) -> tuple[str, str]:
    """A program for NVRTC, header and kernel, from the arguments of `mx.fast.cuda_kernel` and of a call of it."""
    inputs = zip(kernel["input_names"], call["inputs"], strict=True)
    outputs = zip(kernel["output_names"], call["output_dtypes"], strict=True)
    parameters = [f"const {_TYPES[array.dtype]}* {name}" for name, array in inputs]
    parameters += [f"{_TYPES[dtype]}* {name}" for name, dtype in outputs]
    kernel_text = (
        "namespace mlx::core::cu {\nnamespace cg = cooperative_groups;\n"
        f"__global__ void custom_kernel_{kernel['name']}({', '.join(parameters)}) {{\n"
        f"{kernel['source']}\n}}\n}}\n"
    )
    return _BEFORE + kernel["header"], kernel_text
