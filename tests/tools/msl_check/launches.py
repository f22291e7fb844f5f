"""Every launch that the package makes on a GPU, recorded on a machine without one."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant import backends, dispatch
from mlx_dequant.backends import gpu
from mlx_dequant.kernel_source import REORDER_WHOLE, Kernel, Program
from mlx_dequant.registry import Format
from mlx_dequant.weights import QuantizedWeight

from .cuda import cuda_text

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
VECTORS = (1, 2, 3, 5, 9, 17, 64, 100, 200)
GENERATIONS = {"metal": (0,), "cuda": (80, 90)}


@dataclass(frozen=True)
class Launch:
    """What a GPU's compiler gets, a header and a function, and the sizes of a launch."""

    header: str
    function: str
    grid: tuple[int, ...]
    threadgroup: tuple[int, ...]


@dataclass
class Recorded:
    """Everything that the package asked of MLX for weights in one format."""

    kernels: set[Kernel]
    launches: list[Launch]

    def texts(self) -> list[str]:
        """The programs; those that share a header are one text, which is read once."""
        functions: dict[str, set[str]] = {}
        for one in self.launches:
            functions.setdefault(one.header, set()).add(one.function)
        return [header + "\n".join(sorted(those)) for header, those in functions.items()]


def weights(form: Format) -> Iterator[QuantizedWeight]:
    """Weights of few rows and of many, one with as few elements as there can be; with each type of scales."""
    if form.family == "gguf":
        for rows, blocks in ((1, 1), (256, -(-32 // form.weights)), (2048, 1)):
            yield mxd.GGUFWeight(np.zeros((rows, blocks * form.bytes), np.uint8), form.name)
        return
    for scales in DTYPES:
        least = 32 if form.bits == 3 else 32 // form.bits
        for inputs, outputs in ((least, least), (256, 64), (2048, 32), (32, 2048)):
            yield _group_weight(form, inputs, outputs, scales)
        yield _group_weight(form, 64, 32, scales, 32)
        if form.family in ("gptq", "compressed_tensors"):
            yield _g_idx_weight(form, scales)


def _group_weight(form: Format, inputs: int, outputs: int, dtype: mx.Dtype, size: int = -1) -> QuantizedWeight:
    def words(count: int) -> int:
        return count * form.bits // 32

    groups = 1 if size == -1 else inputs // size
    zeros = mx.zeros((groups, words(outputs)), mx.int32)
    scales = mx.zeros((groups, outputs), dtype)
    if form.family == "awq":
        return mxd.AWQWeight(mx.zeros((inputs, words(outputs)), mx.int32), scales, zeros, size)
    if form.family == "gptq":
        codes = mx.zeros((words(inputs), outputs), mx.int32)
        return mxd.GPTQWeight(codes, scales, zeros, bits=form.bits, group_size=size)
    codes = mx.zeros((outputs, words(inputs)), mx.int32)
    return mxd.CompressedTensorsWeight(codes, scales.T, (outputs, inputs), zeros.T, bits=form.bits, group_size=size)


def _g_idx_weight(form: Format, scales: mx.Dtype) -> QuantizedWeight:
    """One with act-order, which a kernel of its own reads."""
    inputs, outputs, groups = 64, 32, 4
    if form.family == "gptq":
        codes = mx.zeros((inputs * form.bits // 32, outputs), mx.int32)
        zeros = mx.zeros((groups, outputs * form.bits // 32), mx.int32)
        order = mx.arange(inputs) % groups
        return mxd.GPTQWeight(codes, mx.zeros((groups, outputs), scales), zeros, order, 16, form.bits)
    codes = mx.zeros((outputs, inputs * form.bits // 32), mx.int32)
    return mxd.CompressedTensorsWeight(
        codes, mx.zeros((outputs, groups), scales), (outputs, inputs), bits=form.bits, group_size=16
    )


def record(
    target: str, form: Format, dtypes: tuple[mx.Dtype, ...] = DTYPES, generations: tuple[int, ...] = ()
) -> Recorded:
    """What the package launches on `target`, "metal" or "cuda", for weights in a format; each program once.

    Args:
        generations: of devices, as `dispatch.generation` tells them; all that differ by default.
    """
    with tempfile.TemporaryFile() as printed, _recording(target) as recorded:
        with _output_to(printed.fileno()):
            mx.export_function(lambda _: None, lambda: _use(target, form, dtypes, generations or GENERATIONS[target]))
        printed.seek(0)
        texts = re.findall(r"Generated source code for `\w+`:\n```\n(.*?)\n```\n", printed.read().decode(), re.DOTALL)
    if target == "metal":
        # MLX says what it made of each; the header is what we gave it.
        pairs = zip(recorded.launches, texts, strict=True)
        recorded.launches = [replace(one, function=text.removeprefix(one.header)) for one, text in pairs]
    return recorded


def _use(target: str, form: Format, dtypes: tuple[mx.Dtype, ...], generations: tuple[int, ...]) -> mx.array:
    """Everything that a GPU does with a weight, in every type and for few vectors and many."""
    backend = backends._BACKENDS[target]
    for weight in weights(form):
        for dtype in dtypes:
            backend.dequantize(weight, dtype)
            for transpose in (False, True):
                width = weight.rows if transpose else weight.columns
                backend.take(weight, mx.zeros(3, mx.int32), dtype, int(transpose))
                # Each as it is, and as if it were large; few and many show all that differs then.
                cases = [(*one, False) for one in product(generations, VECTORS)]
                cases += product(generations, (VECTORS[0], VECTORS[-1]), (True,))
                for generation, vectors, large in cases:
                    with (
                        patch.object(dispatch, "generation", lambda _, known=generation: known),
                        patch.object(dispatch, "LONG_ROWS", 0 if large else dispatch.LONG_ROWS),
                    ):
                        backend.product(weight, mx.zeros((vectors, weight.size // width), dtype), transpose)
    for dtype in dtypes:
        gpu._reordered(target, mx.zeros((3, 64), dtype), mx.zeros(64, mx.int32))
        for size in REORDER_WHOLE[target]:
            inputs = 1024 * size // dtype.size
            x, order = mx.zeros((dispatch.WHOLE_VECTORS, inputs), dtype), mx.zeros(inputs, mx.int32)
            with patch.object(dispatch, "generation", lambda _: 80):
                gpu._reordered(target, x, order)
    return mx.zeros(1)


@contextmanager
def _recording(target: str) -> Iterator[Recorded]:
    """Puts a recorder in the place where the package asks MLX for a kernel."""
    maker = f"{target}_kernel"
    real_maker, real_program = getattr(mx.fast, maker), gpu.program
    recorded = Recorded(set(), [])
    seen: set[tuple[Any, ...]] = set()

    def program(target: str, form: Format | None, kernel: Kernel, *types: Any) -> Program:
        recorded.kernels.add(kernel)
        return real_program(target, form, kernel, *types)

    def make(**kernel: Any) -> Callable[..., list[mx.array]]:
        def launch(**call: Any) -> list[mx.array]:
            # What the text depends on; MLX passes inputs of fewer than 8 elements in another way.
            inputs = tuple((x.dtype, x.ndim == 0, x.size < 8) for x in call["inputs"])
            key = (kernel["name"], inputs, call["threadgroup"])
            if key not in seen:
                seen.add(key)
                before, function = cuda_text(kernel, call) if target == "cuda" else (kernel["header"], "")
                recorded.launches.append(Launch(before, function, call["grid"], call["threadgroup"]))
                if target == "metal":
                    return real_maker(**kernel)(**call, verbose=True)
            shapes = zip(call["output_shapes"], call["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in shapes]

        return launch

    gpu.kernel.cache_clear()
    setattr(mx.fast, maker, make)
    gpu.program = program
    try:
        yield recorded
    finally:
        setattr(mx.fast, maker, real_maker)
        gpu.program = real_program
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
