"""The text that MLX gives NVRTC for a kernel of ours, and a check of it that needs nothing of NVIDIA's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from clang import cindex

SHIM = Path(__file__).parent / "cuda_shim"

_TYPES = {
    mx.float32: "float",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.uint8: "uint8_t",
    mx.int32: "int32_t",
    mx.uint32: "uint32_t",
}
_ARGUMENTS = (
    *("-x", "cuda", "--cuda-device-only", "-nocudainc", "-nocudalib", "--cuda-gpu-arch=sm_90", "-std=c++17"),
    *("-nostdinc", "-isystem", str(SHIM)),
    *("-Wall", "-Wno-unused", "-Wno-unknown-pragmas", "-Wno-unknown-cuda-version"),
)
# As mlx/backend/cuda/custom_kernel.cpp has it; MLX prints a program on machines with CUDA only.
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


def cuda_faults(text: str) -> list[str]:
    """What clang's CUDA front end says of a program, behind declarations that stand in for NVIDIA's headers."""
    index = cindex.Index.create()
    unit = index.parse("program.cu", args=[*_ARGUMENTS], unsaved_files=[("program.cu", text)])
    return [str(diagnostic) for diagnostic in unit.diagnostics]
