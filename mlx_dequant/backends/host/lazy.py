"""Products and look-ups as nodes of MLX's graphs (cpp/primitive.cpp), computed when somebody reads them.

The primitive is tied to MLX's C++ interface. So it is compiled for the installed MLX, against the headers and the
library of its wheel, and tried once in a process of its own. Where that fails, the host computes at once instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from ... import disk_cache
from ...encoded import EncodedMatrix
from ...kernel_source import inline
from ...log import logger
from . import compiler, memory, threads
from .driver import TYPES, Operand, driver
from .library import Loop

PRODUCT, EXPERT_PRODUCT, LOOK_UP = range(3)
# Later flags win: MLX's headers take C++20, and its primitives have exceptions and types at run time.
FLAGS = ("-std=c++20", "-O3", "-fexceptions", "-frtti")
# What the process of the trial runs. Its modules are found where this process finds them.
TRIAL = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mlx_dequant.backends.host import trial; trial.run()"
)
# Names a primitive for the process that tries it.
CANDIDATE = "_MLX_DEQUANT_CANDIDATE"

HEAD = object.__basicsize__  # where nanobind keeps what an object refers to


# The driver's functions that graphs call, in the order of cpp/primitive.cpp.
_DRIVER = ("product", "expert_product", "look_up")


_at_once: ContextVar[bool] = ContextVar("mlx_dequant_at_once", default=False)


@contextmanager
def at_once() -> Generator[None]:
    """Products compute at once inside the `with`, as they do without a primitive."""
    token = _at_once.set(True)
    try:
        yield
    finally:
        _at_once.reset(token)


def primitive() -> Any | None:
    """The primitive's functions; None where products compute at once."""
    return None if _at_once.get() else _loaded()


@cache
def _loaded() -> Any | None:
    """The primitive's functions; None, said once in the log, if there are none that work."""
    if compiler.compiler() is None or driver() is None:
        return None
    if os.environ.get("MLX_DEQUANT_LAZY") == "0":
        logger.info("host: products compute at once, from MLX_DEQUANT_LAZY")
        return None
    try:
        candidate = os.environ.get(CANDIDATE)
        return _functions(Path(candidate) if candidate else _tried(_built()))
    except (OSError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        logger.warning("host: products compute at once and are not part of MLX's graphs: %s", error)
        return None


def _built() -> Path:
    tool = compiler.compiler()
    assert tool is not None
    if "ziglang" in tool.command:
        raise RuntimeError("ziglang's C++ library is not the one that MLX is compiled with")
    folder = Path(mx.__file__).parent
    library = next((path for path in folder.glob("lib/libmlx.*") if path.suffix in (".so", ".dylib")), None)
    if library is None or not (folder / "include/mlx/primitives.h").is_file():
        raise RuntimeError(f"{folder} has no library and headers of MLX")
    status = library.stat()
    others = json.dumps([vars(mx).get("__version__"), str(library), status.st_size, status.st_mtime_ns, sys.version])
    flags = [*tool.flags, *FLAGS, "-I", str(folder / "include")]
    text = inline([Path(__file__).parent / "cpp" / "primitive.cpp"])
    return compiler.build("primitive", text, flags, (str(library), f"-Wl,-rpath,{library.parent}"), others)


def _tried(path: Path) -> Path:
    """`path`, once a process of its own has used it and found the results right."""
    record = path.with_suffix(".tried")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    if record.exists():
        disk_cache.refuse_others(record)
        found, _, failure = record.read_text().partition("\n")
        if found == checksum:
            if failure:
                raise RuntimeError(failure)
            return path
    failure = _trial(path)
    disk_cache.replace_file(record, f"{checksum}\n{failure}".encode())
    if failure:
        raise RuntimeError(failure)
    return path


def _trial(path: Path) -> str:
    """Why the primitive cannot be used; "" if it can."""
    environment = os.environ | {CANDIDATE: str(path), "MLX_DEQUANT_BACKEND": "host"}
    command = [sys.executable, "-c", TRIAL, json.dumps(sys.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=compiler.PATIENCE)
    if done.returncode == 0:
        return ""
    return f"its trial ended with status {done.returncode}: {done.stderr.strip()[-500:]}"


def _functions(path: Path) -> Any:
    found = ctypes.PyDLL(str(path))  # with the GIL, because other threads may not change what it reads
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    found.keep.argtypes = (ctypes.POINTER(Operand), size, pointer, size, number, number, pointer, size, pointer)
    found.put.argtypes = (number, pointer, pointer, ctypes.c_uint, pointer, size, number, size, pointer)
    found.drop.argtypes = (pointer,)
    found.has_values.argtypes = found.is_tracer.argtypes = (pointer, size)
    real, layer = ctypes.c_float, found.put_layer
    layer.argtypes = (number, number, real, number, *[pointer] * 4, ctypes.c_uint, size, pointer)
    found.keep.restype = found.put.restype = layer.restype = ctypes.c_char_p
    found.drop.restype = found.use_driver.restype = None
    found.use_driver(ctypes.cast(driver().each_step, pointer))
    return found


class _Kept:
    """A matrix that graphs refer to. Its memory is freed when neither Python nor a graph does."""

    def __init__(self, matrix: EncodedMatrix, operand: Operand):
        self.functions: Any = primitive()
        self.address = ctypes.c_void_p()
        arrays = memory.held(matrix).arrays
        functions = (ctypes.cast(getattr(driver(), name), ctypes.c_void_p) for name in _DRIVER)
        error = self.functions.keep(
            operand,
            ctypes.sizeof(operand),
            (ctypes.c_void_p * len(arrays))(*map(id, arrays)),
            len(arrays),
            operand.inputs,
            operand.outputs,
            (ctypes.c_void_p * len(_DRIVER))(*functions),
            HEAD,
            ctypes.byref(self.address),
        )
        _check(error)

    def __del__(self) -> None:
        if self.address:
            self.functions.drop(self.address)


def _kept(matrix: EncodedMatrix, operand: Operand) -> _Kept:
    kept = matrix.cache.setdefault("host graphs", {})
    key = ctypes.addressof(operand)
    if key not in kept:
        kept[key] = _Kept(matrix, operand)
    return kept[key]


def _node(
    operation: int, matrix: EncodedMatrix, operand: Operand, loop: Loop | None, dtype: mx.Dtype, *inputs: mx.array
) -> mx.array:
    """A node of a graph, with results of type `dtype`."""
    for array in inputs:
        if not isinstance(array, mx.array):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"mlx-dequant: found {type(array).__name__}, expected an mx.array")
    kept = _kept(matrix, operand)
    out = mx.array(0)
    error = kept.functions.put(
        operation,
        kept.address,
        None if loop is None else ctypes.addressof(loop),
        threads.count(),
        (ctypes.c_void_p * len(inputs))(*map(id, inputs)),
        len(inputs),
        TYPES[dtype],
        HEAD,
        id(out),
    )
    _check(error)
    return out


def product(matrix: EncodedMatrix, operand: Operand, x: mx.array) -> mx.array:
    """x [..., inputs] times the matrix: [..., outputs] in x's type."""
    return _node(PRODUCT, matrix, operand, None, x.dtype, x)


def expert_product(matrix: EncodedMatrix, operand: Operand, x: mx.array, ids: mx.array) -> mx.array:
    """Row m of x [M, inputs] times the experts ids[m] of int32 ids [M, k]: [M, k, outputs]; NaN where out of range."""
    return _node(EXPERT_PRODUCT, matrix, operand, None, x.dtype, x, ids)


def look_up(matrix: EncodedMatrix, operand: Operand, loop: Loop, ids: mx.array, dtype: mx.Dtype) -> mx.array:
    """Rows or columns of the matrix by int32 ids [n], as `loop` gathers them: [n, length]; NaN where out of range."""
    return _node(LOOK_UP, matrix, operand, loop, dtype, ids)


def has_values(array: mx.array) -> bool:
    """Whether reading the array's values waits for nothing."""
    functions = primitive()
    return functions is not None and bool(functions.has_values(id(array), HEAD))


def is_tracer(array: mx.array) -> bool | None:
    """Whether one of MLX's transformations traces the array; None where the primitive is not there to ask."""
    functions = primitive()
    return None if functions is None else bool(functions.is_tracer(id(array), HEAD))


def _check(message: bytes | None) -> None:
    if message is not None:
        raise RuntimeError(f"mlx-dequant: {message.decode(errors='replace')}")
