"""llama.cpp's ggml on the CPU, through its C functions, from an installed llama-cpp-python.

Its product rounds x to 8 bits first, and so answers a slightly different question; x and the result
are float32, whatever the case's type. GGML_LIBRARIES names another folder with its shared libraries.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlx_dequant.backends.host import threads

from ...diagnostics.bounds import EXACT, Allowance
from ...diagnostics.compare import as_float32
from ...diagnostics.timing import done
from ..cases import Case
from ..data import Data
from . import Absent, Provider, Ready

POINTER, LONG = ctypes.c_void_p, ctypes.c_int64
TO_FLOAT = ctypes.CFUNCTYPE(None, POINTER, POINTER, LONG)
CHUNK = 1 << 15  # weights, whose float32 values stay in a cache
X_ERROR = 0.51 / 127  # x in blocks of 8-bit integers, the largest of a block at 127


class Traits(ctypes.Structure):
    """What ggml knows of a type, as far as its dequantizing function."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("weights", LONG),
        ("interleave", LONG),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", TO_FLOAT),
    )


class Room(ctypes.Structure):
    """Memory for a context."""

    _fields_ = (("size", ctypes.c_size_t), ("memory", POINTER), ("without_data", ctypes.c_bool))


class GGML:
    """Dequantizing by rows on as many threads as we use, and the matmul of its CPU backend."""

    name = "ggml"
    device = "cpu"

    def __init__(self, folder: Path):
        self.base, self.cpu = (_loaded(folder, name) for name in ("ggml-base", "ggml-cpu"))
        self.pool = ThreadPoolExecutor(threads.count())

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if data.weights[0].format.family != "gguf":
            return None
        if case.case == "linear":
            return self._linear(case, data)
        return self._dequantize(case, data) if case.dtype in ("float16", "float32") else None

    def _dequantize(self, case: Case, data: Data) -> Ready | None:
        form, (rows, columns) = data.weights[0].format, case.shape
        to_float = _function(self.base, "ggml_get_type_traits", ctypes.POINTER(Traits), ctypes.c_int)(
            form.ggml_type
        ).contents.to_float
        # The CPU backend's conversion is vectorized; older releases have the plain one alone.
        fast = hasattr(self.cpu, "ggml_cpu_fp32_to_fp16")
        library, conversion = (self.cpu, "ggml_cpu_fp32_to_fp16") if fast else (self.base, "ggml_fp32_to_fp16_row")
        rounded = _function(library, conversion, None, POINTER, POINTER, LONG)
        blocks = [np.asarray(w.arrays["blocks"]) for w in data.weights]
        width, half = blocks[0].shape[1], case.dtype == "float16"

        # Several rows a call: Python's share of the time is ours, not ggml's.
        step = max(1, CHUNK // columns)

        def some(source: int, out: int, begin: int, end: int) -> None:
            held = np.empty(step * columns, np.float32)
            scratch = held.ctypes.data
            for at in range(begin, end, step):
                count = (min(at + step, end) - at) * columns
                if half:
                    to_float(source + at * width, scratch, count)
                    rounded(scratch, out + at * columns * 2, count)
                else:
                    to_float(source + at * width, out + at * columns * 4, count)

        def call(i: int) -> np.ndarray:
            out = np.empty((rows, columns), case.dtype)
            edges = np.linspace(0, rows, threads.count() + 1).astype(int).tolist()
            source = blocks[i % len(blocks)].ctypes.data
            jobs = [self.pool.submit(some, source, out.ctypes.data, *pair) for pair in pairwise(edges)]
            for job in jobs:
                job.result()
            return out

        return Ready(call, done, lambda result: result.astype(np.float32), EXACT)

    def _linear(self, case: Case, data: Data) -> Ready:
        N, K = case.shape
        nbytes = sum(w.nbytes for w in data.weights)
        room = nbytes + 4 * case.M * (K + N) * len(data.weights) + (64 << 20)
        context = _function(self.base, "ggml_init", POINTER, Room)(Room(room, None, False))
        matrix = _function(self.base, "ggml_new_tensor_2d", POINTER, POINTER, ctypes.c_int, LONG, LONG)
        address = _function(self.base, "ggml_get_data", POINTER, POINTER)
        multiply = _function(self.base, "ggml_mul_mat", POINTER, POINTER, POINTER, POINTER)
        expand = _function(self.base, "ggml_build_forward_expand", None, POINTER, POINTER)
        compute = _function(self.base, "ggml_backend_graph_compute", ctypes.c_int, POINTER, POINTER)
        backend = _function(self.cpu, "ggml_backend_cpu_init", POINTER)()
        _function(self.cpu, "ggml_backend_cpu_set_n_threads", None, POINTER, ctypes.c_int)(backend, threads.count())
        graphs: list[tuple[Any, np.ndarray]] = []
        for i, w in enumerate(data.weights):
            held = np.asarray(w.arrays["blocks"])
            x = as_float32(data.xs[i % len(data.xs)])
            a = matrix(context, w.format.ggml_type, K, N)
            b = matrix(context, 0, K, case.M)
            ctypes.memmove(address(a), held.ctypes.data, held.nbytes)
            ctypes.memmove(address(b), x.ctypes.data, x.nbytes)
            product = multiply(context, a, b)
            graph = _function(self.base, "ggml_new_graph", POINTER, POINTER)(context)
            expand(graph, product)
            memory = (ctypes.c_float * (case.M * N)).from_address(address(product))
            graphs.append((graph, np.frombuffer(memory, np.float32).reshape(case.M, N)))

        def call(i: int) -> np.ndarray:
            graph, out = graphs[i % len(graphs)]
            if compute(backend, graph):
                raise RuntimeError("ggml computed nothing")
            return out

        # The context holds copies of the weights.
        weakref.finalize(call, _function(self.base, "ggml_free", None, POINTER), context)
        weakref.finalize(call, _function(self.base, "ggml_backend_free", None, POINTER), backend)
        return Ready(call, done, np.copy, Allowance(x=X_ERROR, why="x rounded to 8 bits"))


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


def _loaded(folder: Path, name: str) -> ctypes.CDLL:
    files = sorted(folder.rglob(f"*{name}*.so")) + sorted(folder.rglob(f"*{name}*.dylib"))
    if not files:
        raise Absent(f"{folder} holds no {name}")
    return ctypes.CDLL(str(files[0]), mode=ctypes.RTLD_GLOBAL)


def found() -> list[Provider]:
    asked = os.environ.get("GGML_LIBRARIES")
    if asked:
        return [GGML(Path(asked))]
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise Absent("llama-cpp-python is not installed (pip install llama-cpp-python)")
    return [GGML(Path(spec.origin).parent / "lib")]
