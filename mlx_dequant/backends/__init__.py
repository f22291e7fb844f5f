"""Which backend runs an operation: Metal, CUDA, the host's compiler or the reference."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import mlx.core as mx

from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..log import logger
from . import experts, host, reference
from .arrays import checked_ids, stored
from .gpu import cuda, metal

# Best first. Each has available(), dequantize(matrix, dtype), matmul(matrix, x, transpose) and
# gather(matrix, ids, dtype, axis).
_BACKENDS: dict[str, ModuleType] = {"metal": metal, "cuda": cuda, "host": host, "reference": reference}
# Of these, those that build graphs and need no values.
GPUS = ("metal", "cuda")
_chosen: ContextVar[str | None] = ContextVar("mlx_dequant_backend", default=None)
chosen = _chosen.get  # the backend of `use_backend`, None outside: quicker to ask for than `current_backend`


@cache
def _works(name: str) -> bool:
    """Asked only of a backend that is wanted: to look for a compiler takes time."""
    return _BACKENDS[name].available()


def available_backends() -> list[str]:
    """The backends that work on this machine, best first, out of "metal", "cuda", "host", "reference"."""
    return list(filter(_works, _BACKENDS))


def current_backend() -> str:
    """The backend in use: that of `use_backend`, else of MLX_DEQUANT_BACKEND, else the best available."""
    return _chosen.get() or _default()


@cache
def _default() -> str:
    """The environment is read once: each product asks for its backend, and reading takes as long as an addition."""
    asked = os.environ.get("MLX_DEQUANT_BACKEND")
    name = _checked(asked or _best())
    logger.info("backend: %s, %s", name, "from MLX_DEQUANT_BACKEND" if asked else "the best that works here")
    return name


def _best() -> str:
    best = next(filter(_works, _BACKENDS))
    if best == "reference":
        warnings.warn(
            "mlx-dequant found no GPU and no C++ compiler ($CXX, clang++, g++, the ziglang package), and so "
            "dequantizes slowly. To change that: pip install ziglang",
            RuntimeWarning,
            stacklevel=2,
        )
    return best


@contextmanager
def use_backend(name: str, precision: str | None = None) -> Generator[None]:
    """Runs everything inside the `with` on one backend, in this thread or task.

    Args:
        name: of a backend.
        precision: of the host's products x @ W.T, "float32" or "int8"; MLX_DEQUANT_PRECISION if None, and "float32"
            without that. "int8" rounds x to 8 bits, 32 inputs by their largest magnitude, where a product has at most
            4 rows of x and the weight is in a GGUF format of whole-number codes: all but F32, F16, BF16, NVFP4 and the
            codebooks IQ1, IQ2 and IQ3. Each 32 inputs may move a result by 1/254 of that magnitude, times the sum of
            their weights' magnitudes. All else stays float32: other formats, more rows, gradients, look-ups, and rows
            of x with NaN or infinities. A graph keeps the precision that it was made with.

    Raises:
        FormatError: there is no such backend, or it does not work here; the precision is neither, or is "int8" for
            another backend than the host.
    """
    chosen = _checked(name)
    if precision is not None:
        host.precision.checked(precision, "precision")
        if precision != "float32" and name != "host":
            raise FormatError(f"precision: found {precision!r} for backend {name!r}, expected backend 'host'")
    token = _chosen.set(chosen)
    try:
        with host.precision.set_to(precision):
            yield
    finally:
        _chosen.reset(token)


@cache
def _checked(name: str) -> str:
    if name not in _BACKENDS:
        raise FormatError(f"backend: found {name!r}, expected one of {', '.join(_BACKENDS)}")
    if not _works(name):
        raise FormatError(f"backend {name!r} does not work here; available: {', '.join(available_backends())}")
    return name


def dequantize(matrix: EncodedMatrix, dtype: mx.Dtype) -> mx.array:
    """[rows, columns] weights, from the backend in use."""
    if matrix.size == 0:
        return mx.zeros((matrix.rows, matrix.columns), dtype)
    if matrix.experts and matrix.format.bits:
        return mx.concatenate([dequantize(experts.expert(matrix, each), dtype) for each in range(matrix.experts)])
    values = stored(matrix, dtype)
    return _BACKENDS[current_backend()].dequantize(matrix, dtype) if values is None else values


def matmul(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> mx.array:
    """x [..., columns] @ W.T for the stored matrix W (`transpose`), or x [..., rows] @ W."""
    if matrix.size == 0 or x.size == 0:
        return mx.zeros((*x.shape[:-1], matrix.rows if transpose else matrix.columns), x.dtype)
    return _BACKENDS[current_backend()].matmul(matrix, x, transpose)


def gather_matmul(matrix: EncodedMatrix, x: mx.array, ids: mx.array, transpose: bool, sorted: bool = False) -> mx.array:
    """Row m of x [M, inputs] times the experts ids[m] of a stack, for ids [M, k]: [M, k, outputs].

    With W the stored matrix of an expert, that is x @ W.T (`transpose`) or x @ W. `sorted` ids never fall. GPUs take x
    and ids with any leading axes.
    """
    outputs = matrix.rows // max(matrix.experts, 1) if transpose else matrix.columns
    if matrix.size == 0 or x.size == 0 or ids.size == 0:
        return mx.zeros((*ids.shape, outputs), x.dtype)
    backend = _BACKENDS[current_backend()]
    if hasattr(backend, "gather_matmul"):
        return backend.gather_matmul(matrix, x, ids, transpose, sorted)
    return experts.gather_matmul(backend.matmul, matrix, x, ids, transpose)


def check_ids(ids: mx.array, count: int) -> None:
    """Refuses ids out of range that have values already, where the host builds graphs.

    Raises:
        IndexError: an id is out of range; negative ones count from the end.
    """
    if current_backend() == "host" and host.has_values(ids):
        checked_ids(ids, count)


def is_tracer(array: mx.array) -> bool | None:
    """Whether one of MLX's transformations traces the array; None where the backend in use cannot say."""
    return host.is_tracer(array) if current_backend() == "host" else None


def gather(matrix: EncodedMatrix, ids: mx.array, dtype: mx.Dtype, axis: int) -> mx.array:
    """[len(ids), columns] rows of the stored matrix (axis 0), or [len(ids), rows] columns of it (axis 1)."""
    length = matrix.rows if axis else matrix.columns
    if matrix.size == 0 or ids.size == 0:
        return mx.zeros((ids.size, length), dtype)
    return _BACKENDS[current_backend()].gather(matrix, ids, dtype, axis)


def is_replayable(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> bool:
    """Whether the product is only a graph, which MLX can trace once and replay for other x of this shape."""
    name = current_backend()
    if name not in GPUS:
        return False
    return bool(matrix.size and x.size) and _BACKENDS[name].is_replayable(matrix, x, transpose)


def dense_bytes(matrix: EncodedMatrix, x: mx.array, transpose: bool) -> int:
    """Bytes of the dense matrix that a replayable product makes for a while; 0 without."""
    return _BACKENDS[current_backend()].dense_bytes(matrix, x, transpose)


def is_lazy() -> bool:
    """Whether the backend in use builds lazy graphs; the others need values at once."""
    name = current_backend()
    return name in GPUS or (name == "host" and host.is_lazy())


def on_gpu() -> bool:
    """Whether the backend in use is a GPU's."""
    return current_backend() in GPUS
