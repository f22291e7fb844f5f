"""Every launch that the package makes on a GPU, recorded on a machine without one."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends import gpu
from mlx_dequant.registry import Format
from mlx_dequant.weights import PackedWeight

from .cuda import cuda_text

DTYPES = (mx.float32, mx.float16, mx.bfloat16)


@dataclass(frozen=True)
class Launch:
    """A kernel's name under `metal/kernels`, the text that its compiler gets, and the sizes of the launch."""

    kernel: str
    text: str
    grid: tuple[int, ...]
    threadgroup: tuple[int, ...]


def weights(form: Format) -> Iterator[PackedWeight]:
    """A weight of ordinary size and one with as few elements as the format allows, with each type of scales."""
    if form.family == "gguf":
        for rows, blocks in ((16, 32), (1, 1)):
            yield mxd.GGUFWeight(np.zeros((rows, blocks * form.bytes), np.uint8), form.name)
        return
    for scales in DTYPES:
        for size in (256, 32 if form.bits == 3 else 32 // form.bits):
            yield _group_weight(form, size, scales)


def _group_weight(form: Format, size: int, dtype: mx.Dtype) -> PackedWeight:
    words = size * form.bits // 32
    zeros = mx.zeros((1, words), mx.int32)
    scales = mx.zeros((1, size), dtype)
    if form.family == "awq":
        return mxd.AWQWeight(mx.zeros((size, words), mx.int32), scales, zeros, -1)
    if form.family == "gptq":
        return mxd.GPTQWeight(mx.zeros((words, size), mx.int32), scales, zeros, bits=form.bits, group_size=-1)
    codes = mx.zeros((size, words), mx.int32)
    return mxd.PackQuantizedWeight(codes, scales.T, (size, size), zeros.T, bits=form.bits, group_size=-1)


def launches(target: str, form: Format, dtypes: tuple[mx.Dtype, ...] = DTYPES) -> list[Launch]:
    """What the package launches on `target`, "metal" or "cuda", for weights in a format; each text once."""
    with tempfile.TemporaryFile() as printed, _recording(target) as recorded:
        with _output_to(printed.fileno()):
            mx.export_function(lambda _: None, lambda: _use(target, form, dtypes))
        printed.seek(0)
        texts = re.findall(r"Generated source code for `\w+`:\n```\n(.*?)\n```\n", printed.read().decode(), re.DOTALL)
    if target == "metal":
        recorded = [
            Launch(one.kernel, text, one.grid, one.threadgroup) for one, text in zip(recorded, texts, strict=True)
        ]
    return list({(one.text, one.grid, one.threadgroup): one for one in recorded}.values())


def _use(target: str, form: Format, dtypes: tuple[mx.Dtype, ...]) -> mx.array:
    """Everything that a GPU does with a weight, in every type."""
    backend = backends._BACKENDS[target]
    results = [mx.zeros(1)]
    for weight in weights(form):
        for dtype in dtypes:
            results.append(backend.dequantize(weight, dtype))
            for transposed in (False, True):
                if hasattr(backend, "product"):
                    width = weight.columns if transposed else weight.rows
                    results += [backend.product(weight, mx.zeros((n, width), dtype), transposed) for n in (1, 4, 40)]
                if hasattr(backend, "take"):
                    results += [backend.take(weight, mx.zeros(n, mx.int32), dtype, transposed) for n in (1, 40)]
    return results[0]


@contextmanager
def _recording(target: str) -> Iterator[list[Launch]]:
    """Puts a recorder in the place where the package asks MLX for a kernel."""
    maker = f"{target}_kernel"
    real = getattr(mx.fast, maker)
    recorded: list[Launch] = []

    def make(**kernel: Any) -> Callable[..., list[mx.array]]:
        def launch(**call: Any) -> list[mx.array]:
            text = cuda_text(kernel, call) if target == "cuda" else ""
            recorded.append(Launch(kernel["name"].partition("_")[0], text, call["grid"], call["threadgroup"]))
            if target == "metal":
                return real(**kernel)(**call, verbose=True)
            shapes = zip(call["output_shapes"], call["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in shapes]

        return launch

    gpu.kernel.cache_clear()
    setattr(mx.fast, maker, make)
    try:
        yield recorded
    finally:
        setattr(mx.fast, maker, real)
        gpu.kernel.cache_clear()


@contextmanager
def _output_to(file: int) -> Iterator[None]:
    """MLX prints from C++: to the process's own standard output."""
    kept = os.dup(1)
    os.dup2(file, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
