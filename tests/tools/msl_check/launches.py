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

import mlx.core as mx
import numpy as np
import pytest
from devices import generation, tuned

import mlx_dequant as mxd
from mlx_dequant import backends, dtypes, launches, tuning
from mlx_dequant.backends.gpu import launch as gpu
from mlx_dequant.kernel_source import KernelSource
from mlx_dequant.kernels import KernelSpec
from mlx_dequant.registry import Format
from mlx_dequant.tuning import Device
from mlx_dequant.weights import QuantizedWeight

from .cuda import cuda_text

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# Types of scales and of x: each with each, and each with another.
PAIRS = tuple(product(DTYPES, DTYPES))
FEW_PAIRS = tuple(zip(DTYPES, (mx.bfloat16, mx.float16, mx.float32), strict=True))
ROWS = (1, 2, 3, 5, 9, 17, 64, 100, 200)  # of x: each pass of qmv and qvm, each block of qmm, each route
# A table with which short rows are shared as long ones are.
EACH = {"least_columns": 1}
GENERATIONS = {"metal": (0,), "cuda": (80, 90)}


# Formats of which `make test` checks programs of every type: types are no matter of one format's.
TYPED = ("f16", "q4_k", "gptq3", "ct4")


def typed(*types: mx.Dtype) -> list[Any]:
    """Every format with types to record; in `make test` those of x, and of `TYPED` each type of scales and of x."""
    pairs = tuple((mx.float16, dtype) for dtype in types)
    few = {name: FEW_PAIRS if name in TYPED else pairs for name in mxd.formats()}
    return [
        *(pytest.param(name, pairs, id=name) for name, pairs in few.items()),
        *(pytest.param(name, PAIRS, id=f"{name}-all", marks=pytest.mark.full) for name in few),
    ]


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

    specs: set[KernelSpec]
    launches: list[Launch]

    def texts(self) -> list[str]:
        """The programs; those that share a header are one text, which is read once."""
        functions: dict[str, set[str]] = {}
        for one in self.launches:
            functions.setdefault(one.header, set()).add(one.function)
        return [header + "\n".join(sorted(those)) for header, those in functions.items()]


def weights(form: Format, scales: mx.Dtype = mx.float16) -> Iterator[QuantizedWeight]:
    """Weights of few rows and of many, one with as few elements as there can be; with that type of scales."""
    if form.family == "gguf":
        for rows, blocks in ((1, 1), (256, -(-32 // form.weights)), (2048, 1)):
            yield mxd.GGUFWeight(np.zeros((rows, blocks * form.bytes), np.uint8), form.name)
        return
    least = 32 if form.bits == 3 else 32 // form.bits
    for inputs, outputs in ((least, least), (256, 64), (2048, 32), (32, 2048)):
        yield _group_weight(form, inputs, outputs, scales)
    yield _group_weight(form, 64, 32, scales, 32)
    if form.family in ("gptq", "compressed_tensors"):
        yield _g_idx_weight(form, scales, 64, 32, 16)
        # Groups of 32 can be sorted.
        yield _g_idx_weight(form, scales, 64, 32, 32)
        yield _g_idx_weight(form, scales, 64, 2048, 32)
        yield _g_idx_weight(form, scales, 256, 32, 128)


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


def _g_idx_weight(form: Format, scales: mx.Dtype, inputs: int, outputs: int, size: int) -> QuantizedWeight:
    """One with act-order."""
    groups = inputs // size
    order = mx.arange(inputs) % groups
    if form.family == "gptq":
        codes = mx.zeros((inputs * form.bits // 32, outputs), mx.int32)
        zeros = mx.zeros((groups, outputs * form.bits // 32), mx.int32)
        return mxd.GPTQWeight(codes, mx.zeros((groups, outputs), scales), zeros, order, size, form.bits)
    codes = mx.zeros((outputs, inputs * form.bits // 32), mx.int32)
    return mxd.CompressedTensorsWeight(
        codes, mx.zeros((outputs, groups), scales), (outputs, inputs), None, order, form.bits, size
    )


def record(
    platform: str,
    form: Format,
    pairs: tuple[tuple[mx.Dtype, mx.Dtype], ...] = PAIRS,
    generations: tuple[int, ...] = (),
) -> Recorded:
    """What the package launches on `platform`, "metal" or "cuda", for weights in a format; each source once.

    Args:
        pairs: types of scales, of formats that have a choice, and of x.
        generations: of devices, as `tuning.Device` has them; all that differ by default.
    """
    with tempfile.TemporaryFile() as printed, _recording(platform) as recorded:
        with _output_to(printed.fileno()):
            every = generations or GENERATIONS[platform]
            mx.export_function(lambda _: None, lambda: _use(platform, form, pairs, every))
        printed.seek(0)
        texts = re.findall(r"Generated source code for `\w+`:\n```\n(.*?)\n```\n", printed.read().decode(), re.DOTALL)
    if platform == "metal":
        # MLX says what it made of each; the header is what we gave it.
        pairs = zip(recorded.launches, texts, strict=True)
        recorded.launches = [replace(one, function=text.removeprefix(one.header)) for one, text in pairs]
    return recorded


def _use(
    platform: str, form: Format, pairs: tuple[tuple[mx.Dtype, mx.Dtype], ...], generations: tuple[int, ...]
) -> mx.array:
    """Everything that a GPU does with a weight, in every type and for few rows of x and many."""
    backend = backends._BACKENDS[platform]
    types = tuple(dict.fromkeys(dtype for _, dtype in pairs))
    for weight, dtype in _weights_and_types(form, pairs):
        matrix = weight.matrix
        backend.dequantize(matrix, dtype)
        for transpose in (False, True):
            inputs = matrix.columns if transpose else matrix.rows
            backend.gather(matrix, mx.zeros(3, mx.int32), dtype, int(transpose))
            # Each as it is, and as if its rows were long; few and many show all that differs then.
            cases = [(*one, EACH) for one in product(generations, ROWS)]
            cases += product(generations, (ROWS[0], ROWS[-1]), ({"long_rows": 0, **EACH},))
            for known, M, fields in cases:
                with generation(known), tuned(**fields):
                    backend.matmul(matrix, mx.zeros((M, inputs), dtype), transpose)
            stack = mxd.stack([weight, weight]).matrix
            shared = (EACH, {"few_rows": 0}, {"few_rows": 0, "long_rows": 0, **EACH})
            for fields in shared if transpose else ({},):
                with generation(generations[0]), tuned(**fields):
                    backend.gather_matmul(stack, mx.zeros((2, inputs), dtype), mx.zeros((2, 4), mx.int32), transpose)
            for known, k in product(generations, (1, 4, 8)):  # each block of gather_qmm
                with generation(known):
                    backend.gather_matmul(stack, mx.zeros((17, inputs), dtype), mx.zeros((17, k), mx.int32), transpose)
    for dtype in types:
        _permute(platform, Device(platform, generations[0]), 3, 64, dtype)
        for device in (Device(platform, known) for known in generations):
            column = tuning.tuning(device)
            for size in column.permute_kilobytes:
                _permute(platform, device, column.permute_whole_rows, 1024 * size // dtype.size, dtype)
    return mx.zeros(1)


def _permute(platform: str, device: Device, M: int, columns: int, dtype: mx.Dtype) -> None:
    launch = launches.permutation(device, M, columns, dtypes.name(dtype))
    gpu.bind(platform, None, launch)(None, mx.zeros((M, columns), dtype), mx.zeros(columns, mx.int32))


def _weights_and_types(
    form: Format, pairs: tuple[tuple[mx.Dtype, mx.Dtype], ...]
) -> Iterator[tuple[QuantizedWeight, mx.Dtype]]:
    if form.family == "gguf":
        pairs = tuple((mx.float16, dtype) for dtype in dict.fromkeys(dtype for _, dtype in pairs))
    for scales in dict.fromkeys(scales for scales, _ in pairs):
        for weight in weights(form, scales):
            for dtype in (dtype for one, dtype in pairs if one == scales):
                yield weight, dtype


@contextmanager
def _recording(platform: str) -> Iterator[Recorded]:
    """Puts a recorder in the place where the package asks MLX for a kernel."""
    maker = f"{platform}_kernel"
    real_maker, real_source = getattr(mx.fast, maker), gpu.kernel_source
    recorded = Recorded(set(), [])
    seen: set[tuple[Any, ...]] = set()

    def kernel_source(platform: str, form: Format | None, spec: KernelSpec, *types: Any) -> KernelSource:
        recorded.specs.add(spec)
        return real_source(platform, form, spec, *types)

    def make(**kernel: Any) -> Callable[..., list[mx.array]]:
        def launch(**call: Any) -> list[mx.array]:
            # What the text depends on; MLX passes inputs of fewer than 8 elements in another way.
            inputs = tuple((x.dtype, x.ndim == 0, x.size < 8) for x in call["inputs"])
            key = (kernel["name"], inputs, call["threadgroup"])
            if key not in seen:
                seen.add(key)
                before, function = cuda_text(kernel, call) if platform == "cuda" else (kernel["header"], "")
                recorded.launches.append(Launch(before, function, call["grid"], call["threadgroup"]))
                if platform == "metal":
                    real_maker(**kernel)(**call, verbose=True)
            shapes = zip(call["output_shapes"], call["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in shapes]

        return launch

    gpu.kernel.cache_clear()
    setattr(mx.fast, maker, make)
    gpu.kernel_source = kernel_source
    try:
        yield recorded
    finally:
        setattr(mx.fast, maker, real_maker)
        gpu.kernel_source = real_source
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
