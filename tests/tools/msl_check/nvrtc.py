"""NVIDIA's run-time compiler from its PyPI wheels, called as MLX calls it. It needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

from .cuda import SHIM

OPTIONS = ("--device-as-default-execution-space",)
# MLX carries this header in its library; the rest of what it includes is NVIDIA's.
MLX_HEADER = "mlx/backend/cuda/device/utils.cuh"


def _found(pattern: str) -> list[Path]:
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations if nvidia else None
    return sorted(path for folder in folders or () for path in Path(folder).glob(pattern))


def missing() -> str:
    """Why NVRTC cannot run here; empty where it can."""
    if not _found("*/lib/libnvrtc.so.*"):
        return "no libnvrtc: pip install nvidia-cuda-nvrtc-cu12 (or nvidia-cuda-nvrtc)"
    if not _found("*/include/cuda_fp16.h"):
        return "no cuda_fp16.h: pip install nvidia-cuda-runtime-cu12 (or nvidia-cuda-runtime)"
    return ""


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_found("*/lib/libnvrtc.so.*")[-1]))


@cache
def _includes() -> tuple[Path, ...]:
    heads = [path.parent for path in _found("*/include/cuda_fp16.h")[-1:]]
    parts = [path.parents[2] for path in (*_found("*/include/cuda/std/array"), *_found("*/include/*/cuda/std/array"))]
    return (*heads, *parts)


def compiled(text: str, architecture: str = "sm_90a") -> str:
    """Compiles a program; gives the compiler's errors, or nothing."""
    library = _library()
    program = ctypes.c_void_p()
    source = (SHIM / MLX_HEADER).read_bytes()
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"program.cu", 1, _strings([source]), _strings([MLX_HEADER.encode()])
    )
    assert made == 0, f"nvrtcCreateProgram gave {made}"
    words = (*OPTIONS, f"--gpu-architecture={architecture}")
    options = [option.encode() for option in (*words, *(f"--include-path={folder}" for folder in _includes()))]
    failed = library.nvrtcCompileProgram(program, len(options), _strings(options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return (log.value.decode() or f"error {failed}") if failed else ""


def _strings(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*values)
