"""Launches of the kernels under `metal/` through `mx.fast`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache, partial
from platform import release
from typing import Any

import mlx.core as mx

from ... import dtypes
from ...encoded import EncodedMatrix
from ...kept import Kept
from ...kernel_source import arrays_of, kernel_source, table
from ...kernels import THREADS, KernelSpec
from ...launches import EXPERT_BYTES, Launch
from ...log import logger
from ...registry import Format
from ...tuning import Device

Kernel = Callable[..., list[mx.array]]

# Operations that were planned and bound, by platform, kind of matrix and what else decides.
bound: Kept[Any] = Kept(4096)


@cache
def device(platform: str) -> Device:
    """The GPU that MLX uses, with its generation: 90 on an H100, 17 on an M5."""
    architecture = str(mx.device_info(mx.gpu).get("architecture", ""))
    if platform == "metal":
        return Device(platform, apple_generation(architecture, release()))
    return Device(platform, int(re.sub(r"\D", "", architecture) or 0))


def apple_generation(architecture: str, darwin: str) -> int:
    """The number in "applegpu_g16s"; 0 if there is none.

    MLX's product uses an M5's neural accelerators from macOS 26.2 on, and not those of an iPhone's GPU of that number
    ("p"). Without them, one is like an M4, whose number is 16.

    Args:
        darwin: the kernel's version, 25.2 in macOS 26.2: some builds of Python call macOS 26 version 16.
    """
    found = re.fullmatch(r"applegpu_g(\d+)([a-z]*)", architecture)
    number = int(found[1]) if found else 0
    version = tuple(int(part) for part in re.findall(r"\d+", darwin)[:2])
    has_accelerators = number >= (18 if found and found[2] == "p" else 17) and version >= (25, 2)
    return number if has_accelerators else min(number, 16)


@cache
def kernel(platform: str, form: Format | None, spec: KernelSpec, *types: Any) -> Kernel:
    """The kernel as MLX's callable; the arguments are those of `kernel_source`."""
    source = kernel_source(platform, form, spec, *types)
    arrays = arrays_of(form) if form else []
    logger.debug("%s: kernel %s, %d letters", platform, source.name, len(source.header) + len(source.body))
    make: Any = mx.fast.metal_kernel
    if platform == "cuda":
        make = partial(mx.fast.cuda_kernel, shared_memory=4 * source.scratch)
    return make(
        name=source.name,
        input_names=[*arrays, *spec.inputs, "params"],
        output_names=["out"],
        source=source.body,
        header=source.header,
    )


def device_arrays(matrix: EncodedMatrix) -> list[mx.array]:
    """The matrix's arrays as the kernels expect them: contiguous, and of 8 elements or more.

    MLX would pass smaller arrays in Metal's constant address space. Zeros stand in for absent arrays, and the
    permutation of a sorted matrix for its g_idx.
    """
    arrays = matrix.cache.get("gpu")
    if arrays is None:
        given = matrix.kernel_arrays()
        if matrix.experts:
            given = [_aligned(array, matrix.experts) for array in given]
        arrays = [_contiguous(_padded(array)) for array in given]
        mx.eval(arrays)
        matrix.cache["gpu"] = arrays
    return arrays


def _aligned(array: mx.array | None, experts: int) -> mx.array | None:
    """A stack's array in which each expert's part begins at a multiple of `EXPERT_BYTES`."""
    if array is None or array.nbytes // experts % EXPERT_BYTES == 0:
        return array
    flat = array.reshape(experts, -1)
    return mx.pad(flat, [(0, 0), (0, -flat.shape[1] % (EXPERT_BYTES // array.dtype.size))])


def _padded(array: mx.array | None) -> mx.array:
    if array is None:
        return mx.zeros(8, mx.int32)
    return array if array.size >= 8 else mx.pad(array.reshape(-1), (0, 8 - array.size))


def _contiguous(array: mx.array) -> mx.array:
    """No copy of what is contiguous, slices included. Arrays of 2^31 elements or more may be copied."""
    return array.reshape(-1) if array.size < 2**31 else mx.contiguous(array)


@cache
def _tables(form: Format | None) -> list[mx.array]:
    """The table of a format, if it has one: an array that all its matrices share."""
    return [mx.array(table(form), mx.uint32)] if form and form.table else []


@lru_cache(maxsize=4096)
def _params(words: tuple[int, ...]) -> mx.array:
    """The launch parameters as an array, which layers of one shape share."""
    return mx.array(words, mx.uint32)


def bind(
    platform: str,
    matrix: EncodedMatrix | None,
    launch: Launch,
    input_dtype: str = "",
    shape: tuple[int, ...] | None = None,
) -> Callable[..., mx.array]:
    """A launch as a function of a matrix of the same kind and of the arrays that it takes besides the matrix's.

    The rest is prepared here, once, and holds no matrix.

    Args:
        matrix: None for a kernel that reads no matrix.
        input_dtype: types of the other arrays, as far as they may differ; "" without any.
        shape: of the output, with as many elements as the launch's; None for the launch's own.
    """
    needs_matrix = launch.spec.needs_matrix
    form, scale_dtype, has_g_idx = None, "", False
    if needs_matrix:
        assert matrix is not None
        form, scale_dtype, has_g_idx = matrix.format, matrix.scale_dtype, matrix.has_g_idx
    call = kernel(platform, form, launch.spec, launch.dtype, scale_dtype, has_g_idx, input_dtype)
    tables, params = _tables(form), _params(launch.params.words)
    output_shapes, output_dtypes = [shape or launch.shape], [dtypes.of(launch.dtype)]
    grid, threadgroup = (launch.threads, 1, 1), (THREADS, 1, 1)

    def run(matrix: EncodedMatrix | None, *inputs: mx.array) -> mx.array:
        arrays = device_arrays(matrix) if needs_matrix and matrix else []
        (out,) = call(
            inputs=[*arrays, *tables, *[_padded(array) for array in inputs], params],
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
        )
        return out

    return run
