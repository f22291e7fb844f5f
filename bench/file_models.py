"""The models that `mlx-dequant bench decode` makes of a GGUF file: quantized, dense, and llama.cpp's."""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx

import mlx_dequant as mxd

from .. import dtypes
from ..backends import GPUS
from ..errors import FormatError
from ..loading import GGUFFile
from .cases import FUSED
from .cases.decode import Candidate, Row
from .models import CONFIGS, Kind
from .processes import Process
from .runners import MLXModel, Runner

LLAMA = "llama-cpp-python"
OURS = "mlx-dequant"
OPENBLAS = " with OpenBLAS"  # MLX's wheel for Linux has the reference BLAS, which is many times as slow
INT8 = " int8"


def found(options: argparse.Namespace, dtype: mx.Dtype) -> tuple[Row, dict[Kind, Candidate], dict[str, str]]:
    """What rows share, the models, and why others take no part."""
    from ..lm import gguf_config

    path = Path(options.model)
    if path.suffix != ".gguf":
        raise FormatError(f"--model: found {options.model}, expected one of {', '.join(CONFIGS)}, or a GGUF file")
    for name in ("layers", "formats", "head"):
        if getattr(options, name) is not None:
            raise FormatError(f"--{name}: found one beside a GGUF file, which has its own")
    file = GGUFFile(path)
    settings = gguf_config.config(file)
    size = path.stat().st_size
    dense = 2 * size * dtype.size  # a weight of a file takes half a byte at least
    name = _main_format(file)
    if mxd.current_backend() in GPUS:
        made, absent = _here(path, dtype, settings["vocab_size"]), {}
    else:
        made, absent = _processes(path, dtypes.name(dtype), name)
    if not options.fuse:
        made = {name: make for name, make in made.items() if not name.endswith(FUSED)}
    made = {
        provider: make
        for provider, make in made.items()
        if provider.partition(" ")[0].removesuffix(FUSED) in options.providers
    }
    if not made:
        raise FormatError(
            f"--providers: found {', '.join(options.providers)}, expected mlx-dequant, mlx or {LLAMA} beside a file"
        )
    dense_ones = ("mlx", "mlx" + OPENBLAS)
    candidates = {
        Kind(
            provider.removesuffix(FUSED),
            "dense" if provider in dense_ones else name,
            fused=provider.endswith(FUSED),
        ): Candidate(make, dense if provider in dense_ones else size)
        for provider, make in made.items()
    }
    return {"model": path.name, "layers": settings["num_hidden_layers"]}, candidates, absent


def _here(path: Path, dtype: mx.Dtype, vocabulary: int) -> dict[str, Callable[[], Runner]]:
    """On a GPU all models are this process's."""
    from .cases import generation

    return {
        OURS: lambda: MLXModel(mxd.lm.load(path, dtype)[0], vocabulary, dtype),
        f"{OURS}{FUSED}": lambda: MLXModel(mxd.lm.load(path, dtype, fuse=True)[0], vocabulary, dtype),
        "mlx": lambda: MLXModel(generation.dense_model(path, dtype), vocabulary, dtype),
    }


def _processes(path: Path, dtype: str, form: str) -> tuple[dict[str, Callable[[], Runner]], dict[str, str]]:
    """On a CPU each model has a process of its own, because a process has one BLAS."""
    library = openblas()
    made: dict[str, Callable[[], Runner]] = {name: _process(name, path, dtype) for name in (OURS, f"{OURS}{FUSED}")}
    if form in mxd.formats() and "int8_codes" in mxd.formats()[form].traits:
        for fused in ("", FUSED):
            made[OURS + INT8 + fused] = _process(OURS + fused, path, dtype, precision="int8")
    absent = {}
    for name in (OURS, "mlx"):
        made.setdefault(name, _process(name, path, dtype))
        if library:
            made[name + OPENBLAS] = _process(name, path, dtype, library)
        else:
            absent[name + OPENBLAS] = "found no libopenblas with cblas_sgemm (Debian: libopenblas0-pthread)"
    if find_spec("llama_cpp"):
        made[LLAMA] = _process(LLAMA, path, dtype)
    else:
        absent[LLAMA] = "not installed"
    return made, absent


def _process(
    provider: str, path: Path, dtype: str, preload: str = "", precision: str = "float32"
) -> Callable[[], Runner]:
    return lambda: Process(provider, path, dtype, preload, precision)


def openblas() -> str:
    """An OpenBLAS that can take the place of MLX's BLAS; "" if there is none. NumPy's has functions of other names."""
    name = ctypes.util.find_library("openblas")
    try:
        return name if name and hasattr(ctypes.CDLL(name), "cblas_sgemm") else ""
    except OSError:
        return ""


def _main_format(file: GGUFFile) -> str:
    """The format that most of a file's bytes have."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        if tensor.format and not tensor.format.stored:
            sizes[tensor.format.name] = sizes.get(tensor.format.name, 0) + tensor.nbytes
    return max(sizes, key=sizes.__getitem__) if sizes else "dense"
