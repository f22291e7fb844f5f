"""A Metal device for tests: `mx.fast.metal_kernel` launches run in the grid emulator."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
from devices import anew

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.gpu import launch as gpu

from . import text
from .launch import Options, fenced, run

_words = {mx.bfloat16: mx.uint16}
_metal_kernel = mx.fast.metal_kernel


class Kernel:
    """What `mx.fast.metal_kernel` gives, run here: MLX generates the text, the emulator runs it at once.

    Outputs are NaN (all bits 1) before.
    """

    def __init__(self, options: Options, **declaration: Any):
        self.options = options
        self.names = declaration["input_names"]
        self.real = _metal_kernel(**declaration)

    def __call__(
        self,
        *,
        inputs: list[mx.array],
        output_shapes: list[tuple[int, ...]],
        output_dtypes: list[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
    ) -> list[mx.array]:
        source = text.generated(
            self.real,
            inputs,
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
        )
        parameters = [one for one in text.signature(source)[1] if one.is_buffer]
        given = dict(zip(self.names, inputs, strict=True))
        outputs = [blank(*one) for one in zip(output_shapes, output_dtypes, strict=True)]
        buffers = [_argument(one.name, given) for one in parameters[: len(parameters) - len(outputs)]]
        run(text.cpp(source), [*buffers, *outputs], grid, threadgroup, self.options)
        return [as_array(buffer, dtype) for buffer, dtype in zip(outputs, output_dtypes, strict=True)]


def _argument(name: str, given: dict[str, mx.array]) -> np.ndarray:
    """The buffer of a parameter: an input, or what MLX adds to tell its shape."""
    if name in given:
        return fenced(numpy_of(given[name]))
    of, _, what = name.rpartition("_")
    array = given[of]
    if what == "shape":
        return fenced(np.array(array.shape, np.int32))
    if what == "strides":
        strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        return fenced(np.array(strides, np.int64))
    assert what == "ndim", name
    return fenced(np.array(array.ndim, np.int32))


def numpy_of(array: mx.array) -> np.ndarray:
    with mx.stream(mx.cpu):
        plain = mx.contiguous(array)
        return np.array(plain.view(_words.get(array.dtype, array.dtype)))


def blank(shape: tuple[int, ...], dtype: mx.Dtype) -> np.ndarray:
    buffer = fenced(np.zeros((int(np.prod(shape)), dtype.size), np.uint8))
    buffer[...] = 0xFF
    return buffer.reshape(*shape, dtype.size)


def as_array(buffer: np.ndarray, dtype: mx.Dtype) -> mx.array:
    words = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.size]
    plain = np.ascontiguousarray(buffer).view(words).reshape(buffer.shape[:-1])
    with mx.stream(mx.cpu):
        return mx.array(plain).view(dtype)


def kernel(options: Options | None = None, **declaration: Any) -> Kernel:
    """`mx.fast.metal_kernel`, for a kernel that a test wrote."""
    return Kernel(options or Options(), **declaration)


@contextmanager
def metal(**options: Any) -> Generator[None]:
    """Backend "metal" is available and in force, and its kernels run in the emulator.

    Args:
        options: those of `Options`.
    """
    chosen = Options(**options)
    forget()
    try:
        with (
            patch.object(mx.fast, "metal_kernel", lambda **declaration: Kernel(chosen, **declaration)),
            patch.object(backends.metal, "available", lambda: True),
            anew(),
            mxd.use_backend("metal"),
        ):
            yield
    finally:
        forget()


def forget() -> None:
    """What the package remembers of devices and kernels."""
    gpu.kernel.cache_clear()
    gpu.device.cache_clear()
    backends._works.cache_clear()
    backends._checked.cache_clear()
