"""The host's compiled loops: a format, a loop and the C function that Python calls."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import mlx.core as mx

from ... import dtypes
from ...encoded import EncodedMatrix
from ...kernel_source import TYPES, inline, loader, sources, struct
from ...registry import FAMILIES, METAL, Format
from .compiler import compiled, warn_of_slowness

FOLDER = Path(__file__).parent / "loops"

# The element types of each loop's inputs between the matrix and `out`.
LOOPS: dict[str, tuple[str, ...]] = {
    "dequantize": (),
    "gather_rows": ("int",),
    "gather_columns": ("int",),
    "qmv": ("float",),
    "qvm": ("float",),
    "qmm_t": ("float",),
    "qmm": ("float",),
    "qmv_int8": ("Rounded",),
}

# Loops that may fuse multiplications and additions: their results are bounded, not fixed to the bit.
MATMULS = ("qmv", "qvm", "qmm_t", "qmm", "qmv_int8")


class Loop(ctypes.Structure):
    """A compiled loop, as the driver takes it (cpp/threads.h).

    Attributes:
        run: address of the function `run(arrays, parameters, begin, end)`, which does steps begin to end - 1.
        cost: nanoseconds of a unit of work, which the driver measures.
    """

    _fields_ = (("run", ctypes.c_void_p), ("cost", ctypes.c_double))


def text(form: Format, loop: str, dtype: str, scale_dtype: str, has_g_idx: bool = False) -> str:
    """The C++ text of a loop."""
    types = [kind.replace("S", TYPES[scale_dtype]) for _, kind in FAMILIES[form.family].arrays]
    types += LOOPS[loop]
    arguments = [f"(const {kind}*)arrays[{i}]" for i, kind in enumerate(types)]
    arrays, inputs = arguments[: len(types) - len(LOOPS[loop])], arguments[len(types) - len(LOOPS[loop]) :]
    decoder = struct(form, has_g_idx)
    tables = [f"(const uint*){form.table}_grid"] if form.table else []
    files = [METAL / f"formats/tables/{form.table}.metal"] if form.table else []
    call = ", ".join(
        [loader(form, decoder, arrays + tables), *inputs, f"({TYPES[dtype]}*)arrays[{len(types)}]", "p", "begin", "end"]
    )
    return f"""{inline([METAL / "platform" / "cpu.h"])}
{sources(form, [*files, FOLDER / f"{loop}.cpp"])}
extern "C" void run(void* const* arrays, const mlx_dequant::LaunchParams* params, size_t begin, size_t end) {{
  using namespace mlx_dequant;
  const LaunchParams p = *params;
  {loop}<{decoder}>({call});
}}
"""


# Graphs of MLX refer to loops, so none is ever freed.
_loops: list[Loop] = []


@cache
def _library(form: Format, loop: str, dtype: str, scale_dtype: str, has_g_idx: bool) -> Loop | None:
    name = f"{loop} {form.name}"
    path = compiled(name, text(form, loop, dtype, scale_dtype, has_g_idx), contract=loop in MATMULS)
    if path is None:
        return None
    try:
        run = ctypes.CDLL(str(path)).run
    except (OSError, AttributeError) as error:  # for example, the cache is on a disk mounted noexec
        warn_of_slowness(name, error)
        return None
    made = Loop(ctypes.cast(run, ctypes.c_void_p), 0)
    _loops.append(made)
    return made


def library(matrix: EncodedMatrix, loop: str, dtype: mx.Dtype = mx.float32) -> Loop | None:
    """A loop over `matrix` with results in `dtype`, or None if it cannot be compiled."""
    return _library(matrix.format, loop, dtypes.name(dtype), matrix.scale_dtype, matrix.has_g_idx)
