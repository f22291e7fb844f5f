"""What Metal and CUDA share: a launch of a kernel under `metal/kernels` through `mx.fast`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import dispatch, dtypes
from ..fast_divmod import fast_divmod
from ..kernel_source import (
    ADD_PARTS,
    COUNTS,
    DEQUANTIZE,
    INPUTS,
    MMA_OUTPUTS,
    PRODUCT,
    PRODUCT_MMA,
    PRODUCT_ROWS,
    PRODUCT_TRANSPOSED,
    QVM_COLUMNS,
    REORDER,
    REORDER_PART,
    ROWS_PER_THREAD,
    TAKE,
    TAKE_TRANSPOSED,
    THREADS,
    TILE_OUTPUTS,
    Kernel,
    arrange,
    product_tiled,
    program,
)
from ..registry import Format
from .launch import Region, sizes, whole

if TYPE_CHECKING:
    from ..weights.base import QuantizedWeight

Launch = Callable[..., list[mx.array]]

# Bytes of a part of a weight, unpacked for MLX's own product. Two are alive.
DENSE = 32 << 20
PATIENCE = 500  # looks at the memory in use, a third of a microsecond each
ROUNDING = 1 << 20  # bytes that MLX may allocate beyond what arrays have
MOST_THREADS = 2**32 - 1  # of a grid: MLX counts no further


@cache
def kernel(target: str, form: Format | None, operation: Kernel, *types: Any) -> Launch:
    """The compiled program, which takes the same, as MLX gives it: call it with inputs, grid and shapes."""
    text = program(target, form, operation, *types)
    arrays = INPUTS[form.family] if form else ()
    arguments: dict[str, Any] = {
        "name": text.name,
        "input_names": [*(name for name, _ in arrays), *operation.inputs, "sizes"],
        "output_names": ["out"],
        "source": text.body,
        "header": text.header,
    }
    make: Any = mx.fast.metal_kernel
    if target == "cuda":
        make = partial(mx.fast.cuda_kernel, shared_memory=4 * text.scratch)
    if operation.cluster == 1:
        return make(**arguments)
    # Without MLX's copies, which would be launched there too.
    return partial(make(ensure_row_contiguous=False, **arguments), stream=_stream_of_clusters())


@cache
def _stream_of_clusters() -> mx.ThreadLocalStream:
    """Where kernels of clusters are launched, and nothing else.

    MLX keeps the CUDA graphs of a stream and updates them for launches of the same structure, which
    leaves clusters as they were: a kernel that has none would fail there without a word.
    """
    return mx.new_thread_local_stream(mx.gpu)


def held(weight: QuantizedWeight) -> list[mx.array]:
    """The weight's arrays as the kernels want them: contiguous, and of 8 elements or more.

    Metal would get smaller ones in another address space. Absent ones are stood in for.
    """
    kept = weight.derived.get("gpu")
    if kept is None:
        kept = [_contiguous(_padded(weight.inputs[name])) for name, _ in INPUTS[weight.format.family]]
        mx.eval(kept)
        weight.derived["gpu"] = kept
    return kept


def _padded(array: mx.array | None) -> mx.array:
    if array is None:
        return mx.zeros(8, mx.int32)
    return array if array.size >= 8 else mx.pad(array.reshape(-1), (0, 8 - array.size))


def _contiguous(array: mx.array) -> mx.array:
    """Without a copy where it is, a slice too. Slices of 2^31 elements, too many for one axis, may be copied."""
    return array.reshape(-1) if array.size < 2**31 else mx.contiguous(array)


@lru_cache(maxsize=4096)
def _numbers(values: tuple[int, ...]) -> mx.array:
    """`sizes` for a launch, not too few either: one layer asks for the same at every token."""
    return _padded(mx.array(values, mx.uint32))


def _run(
    target: str,
    weight: QuantizedWeight | None,
    operation: Kernel,
    inputs: list[mx.array],
    numbers: list[int],
    groups: int,
    shape: tuple[int, ...],
    dtype: mx.Dtype,
) -> mx.array:
    """One launch of `groups` threadgroups."""
    if groups * THREADS > MOST_THREADS:
        raise ValueError(f"{operation.name}: found {groups * THREADS} threads, expected at most {MOST_THREADS}")
    if weight is None:
        arrays, launch = [], kernel(target, None, operation, dtypes.name(dtype))
    else:
        names = dtypes.name(dtype), dtypes.name(weight.scales_dtype)
        given = dtypes.name(inputs[0].dtype) if inputs else ""
        arrays, launch = held(weight), kernel(target, weight.format, operation, *names, weight.has_g_idx, given)
    (out,) = launch(
        inputs=[*arrays, *map(_padded, inputs), _numbers(tuple(numbers))],
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(groups * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
    )
    if operation.cluster == 1:
        return out
    # The caller's stream takes it over, as it is, and so waits: MLX gives the memory of a result that is dropped to
    # others at once, which is right only where they come after it in one stream.
    return mx.stop_gradient(out)


def dequantize(target: str, weight: QuantizedWeight, dtype: mx.Dtype) -> mx.array:
    return region(target, weight, dtype, whole(weight)).reshape(weight.shape)


def region(target: str, weight: QuantizedWeight, dtype: mx.Dtype, part: Region) -> mx.array:
    """[part.rows, part.columns] weights, unpacked."""
    rows = ROWS_PER_THREAD[weight.format.family]
    across = -(-part.columns // 2048)
    most = MOST_THREADS // THREADS // across * rows
    if part.rows > most:
        edges = [*range(part.first_row, part.end_row, most), part.end_row]
        parts = [replace(part, first_row=first, end_row=end) for first, end in pairwise(edges)]
        return mx.concatenate([region(target, weight, dtype, each) for each in parts])
    tiles = -(-part.rows // rows) * across
    shape = (part.rows, part.columns)
    return _run(target, weight, DEQUANTIZE, [], sizes(weight, part, *fast_divmod(across)), tiles, shape, dtype)


def take(target: str, weight: QuantizedWeight, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1).

    An id out of range gives NaN: a launch cannot see the values, nor raise.
    """
    length = weight.rows if axis else weight.columns
    threads = ids.size * (length if axis else -(-length // 8))
    numbers = sizes(weight, whole(weight), ids.size)
    operation = TAKE_TRANSPOSED if axis else TAKE
    groups = -(-threads // THREADS)
    return _run(target, weight, operation, [_int32(ids)], numbers, groups, (ids.size, length), dtype)


def _int32(ids: mx.array) -> mx.array:
    """Ids past int32's range as its ends, which no weight has: they must not wrap into range."""
    if ids.dtype in (mx.int64, mx.uint32, mx.uint64):
        ids = mx.minimum(ids, 2**31 - 1)
    if ids.dtype == mx.int64:
        ids = mx.maximum(ids, -(2**31))
    return ids.astype(mx.int32)


def product(target: str, weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """x [vectors, columns] times the stored matrix transposed (`transpose`), or x [vectors, rows] times it.

    A weight with act-order is sorted by group once, where its groups allow it: otherwise each input looks up its scale.
    """
    found = weight.sort_by_group()
    if found is None:
        return _product(target, weight, x, transpose)
    if transpose != weight.by_inputs:
        return _product(target, found.weight, _reordered(target, x, found.perm), transpose)
    return _reordered(target, _product(target, found.weight, x, transpose), found.inv_perm)


def _reordered(target: str, x: mx.array, order: mx.array) -> mx.array:
    """x [vectors, inputs] with its columns in that order."""
    vectors, inputs = x.shape
    operation = dispatch.reorder(target, vectors, inputs * x.dtype.size)
    groups = vectors * -(-inputs // REORDER_PART) if operation is REORDER else vectors
    return _run(target, None, operation, [x, order], [vectors, inputs], groups, x.shape, x.dtype)


def _product(target: str, weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    vectors = x.shape[0]
    way = dispatch.way(target, x.dtype, vectors, weight)
    if way == "stored":
        dense = weight.dequantize(x.dtype)
        return x @ (dense.T if transpose else dense)
    if way == "unpacked":
        return _unpacked_product(target, weight, x, transpose)
    if way == "tiled":
        return _tiled_product(target, weight, x, transpose)
    most = COUNTS[-1]
    parts = [_pass(target, weight, x[at : at + most], transpose) for at in range(0, vectors, most)]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _pass(target: str, weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """Of as many vectors as are multiplied in one pass over the packed weight."""
    run = dispatch.mma_run(target, x.dtype, x.shape[0], weight) if transpose != weight.by_inputs else 0
    if run:
        return _mma_product(target, weight, x, run)
    return (_packed_product if transpose else _transposed_product)(target, weight, x)


def _mma_product(target: str, weight: QuantizedWeight, x: mx.array, run: int) -> mx.array:
    vectors, inputs = x.shape
    outputs = weight.columns if weight.by_inputs else weight.rows
    shared = MMA_OUTPUTS[weight.format.family]
    tiles = -(-outputs // (16 * shared))
    splits = _splits(tiles, inputs // (16 * run), dispatch.GROUPS)
    numbers = sizes(weight, whole(weight), vectors, splits)
    operation = PRODUCT_MMA[1 if vectors == 1 else 8, shared, run]
    return _split_product(target, weight, operation, x, numbers, tiles * splits, (vectors, outputs))


def _packed_product(target: str, weight: QuantizedWeight, x: mx.array) -> mx.array:
    vectors = x.shape[0]
    count = _count(vectors)
    split = dispatch.split(vectors, weight.rows, weight.columns)
    operation = PRODUCT[count, split]
    numbers = sizes(weight, whole(weight), vectors)
    groups = -(-weight.rows * split // (8 * PRODUCT_ROWS[count]))
    return _run(target, weight, operation, [x], numbers, groups, (vectors, weight.rows), x.dtype)


def _transposed_product(target: str, weight: QuantizedWeight, x: mx.array) -> mx.array:
    vectors = x.shape[0]
    family = weight.format.family
    tiles = -(-weight.columns // (128 * (QVM_COLUMNS[family] if vectors <= 2 else 8)))
    splits = max(1, min(-(-weight.rows // 64), dispatch.groups(family, vectors) // tiles))
    numbers = sizes(weight, whole(weight), vectors, splits)
    operation = PRODUCT_TRANSPOSED[_count(vectors)]
    return _split_product(target, weight, operation, x, numbers, tiles * splits, (vectors, weight.columns))


def _tiled_product(target: str, weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    vectors = x.shape[0]
    inputs, outputs = (weight.columns, weight.rows) if transpose else (weight.rows, weight.columns)
    tile = dispatch.tile(target, not transpose, vectors, outputs, inputs)
    down = -(-vectors // tile.vectors)
    # Rounded up to whole tiles, in the order in which they are read.
    shape = (down * tile.vectors, -(-inputs // tile.step) * tile.step)
    groups = -(-shape[0] * shape[1] // (8 * THREADS))
    arranged = _run(target, None, arrange(tile), [x], [vectors, inputs], groups, shape, x.dtype)
    tiles = down * -(-outputs // (TILE_OUTPUTS * tile.cluster)) * tile.cluster
    pairs = -(-inputs // (2 * tile.step))  # of steps: no split has half of one
    splits = _splits(tiles, inputs // 256, dispatch.TILED_GROUPS[tile.vectors])
    splits = -(-pairs // -(-pairs // splits)) if pairs else 1  # none is left without
    numbers = sizes(weight, whole(weight), vectors, splits)
    operation = product_tiled(not transpose, tile)
    return _split_product(target, weight, operation, arranged, numbers, tiles * splits, (vectors, outputs))


@lru_cache(maxsize=4096)
def _splits(tiles: int, most: int, held: int) -> int:
    """Parts of the inputs, at `most` so many, that leave the least of a GPU idle which holds `held` threadgroups."""
    if tiles >= held:
        return 1
    counts = range(1, max(1, min(most, max(4, held // tiles))) + 1)
    return min(counts, key=lambda splits: -(-tiles * splits // held) / splits)


def _split_product(
    target: str,
    weight: QuantizedWeight,
    operation: Kernel,
    x: mx.array,
    numbers: list[int],
    groups: int,
    shape: tuple[int, int],
) -> mx.array:
    """A launch whose threadgroups share out the inputs, as `numbers` say last; adds up what they made."""
    splits = numbers[-1]
    if splits == 1:
        return _run(target, weight, operation, [x], numbers, groups, shape, x.dtype)
    parts = _run(target, weight, operation, [x], numbers, groups, (splits, *shape), mx.float32)
    n = shape[0] * shape[1]
    return _run(target, None, ADD_PARTS, [parts], [n, splits], -(-n // THREADS), shape, x.dtype)


def _count(vectors: int) -> int:
    return next(count for count in COUNTS if count >= vectors)


def _unpacked_product(target: str, weight: QuantizedWeight, x: mx.array, transpose: bool) -> mx.array:
    """Unpacks a bounded part of the weight at a time, in x's type, for MLX's own product."""
    across, along = (weight.rows, weight.columns) if transpose else (weight.columns, weight.rows)
    most = DENSE // (along * x.dtype.size)
    step = next((most // whole * whole for whole in (1024, 128, 32) if most >= whole), 32)
    parts: list[mx.array] = []
    with suppress(ValueError):
        mx.eval(x)  # not to be counted as a part's memory
    before = mx.get_active_memory()
    for at in range(0, across, step):
        end = min(at + step, across)
        part = Region(at, end, 0, along) if transpose else Region(0, along, at, end)
        dense = region(target, weight, x.dtype, part)
        parts.append(x @ (dense.T if transpose else dense))
        del dense
        _wait(parts, before + end * x.shape[0] * x.dtype.size + DENSE + ROUNDING)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _wait(parts: list[mx.array], limit: int) -> None:
    """Lets one part run while the next is made, and no more: MLX would make them all ahead.

    CUDA's memory is freed by a thread of MLX's, a little later: while more than `limit` bytes are in
    use, that is waited for too. Inside `mx.compile` and `mx.vmap` nothing can be waited for, and MLX decides.
    """
    with suppress(ValueError):
        mx.async_eval(parts[-1])
        mx.eval(parts[-2:-1])
        for _ in range(PATIENCE):
            if mx.get_active_memory() <= limit:
                return
        mx.synchronize()
