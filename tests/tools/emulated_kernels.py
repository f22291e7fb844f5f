"""What the emulator's own tests share: small kernels, launched in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import emulator
import mlx.core as mx
import numpy as np
import pytest

from mlx_dequant.backends.host.compiler import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")

# What most kernels here begin with.
START = """uint i = thread_position_in_grid.x;
uint local = thread_position_in_threadgroup.x;
uint lane = thread_index_in_simdgroup;
"""


def launch(
    body: str,
    *inputs: Any,
    threads: int | tuple[int, int, int] = 64,
    threadgroup: int | tuple[int, int, int] = 64,
    size: int | None = None,
    dtype: mx.Dtype = mx.float32,
    header: str = "",
    **options: Any,
) -> mx.array:
    """`out` of a kernel with inputs `a`, `b`, ... in that order; one element a thread unless `size` says more."""
    grid = (threads, 1, 1) if isinstance(threads, int) else threads
    group = (threadgroup, 1, 1) if isinstance(threadgroup, int) else threadgroup
    arrays = [one if isinstance(one, mx.array) else mx.array(one) for one in inputs]
    kernel = emulator.kernel(
        emulator.Options(**options),
        name="test",
        input_names=list("abcdef"[: len(arrays)]),
        output_names=["out"],
        source=body,
        header=header,
    )
    shape = (int(np.prod(grid)) if size is None else size,)
    (out,) = kernel(inputs=arrays, output_shapes=[shape], output_dtypes=[dtype], grid=grid, threadgroup=group)
    return out


def numbers(count: int, dtype: Any = np.float32) -> np.ndarray:
    """0, 1, 2, ..."""
    return np.arange(count, dtype=dtype)


def expect(found: mx.array, expected: Sequence[float] | np.ndarray) -> None:
    np.testing.assert_array_equal(np.array(found.astype(mx.float32) if found.dtype == mx.bfloat16 else found), expected)
