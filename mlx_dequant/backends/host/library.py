"""The host's programs: a format, a loop and the C function that Python calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ... import dtypes
from ...kernel_source import INPUTS, METAL, TYPES, inline, sources, struct
from ...registry import Format
from .compiler import compiled, warn_of_slowness

if TYPE_CHECKING:
    from ...weights.base import QuantizedWeight

# run(addresses of the arrays, sizes, begin, end) does part of a loop.
Run = Callable[[bytes, bytes, int, int], None]

FOLDER = Path(__file__).parent / "loops"

# What each loop takes between the weight and `out`. Products are float32 throughout.
LOOPS: dict[str, tuple[str, ...]] = {
    "dequantize": (),
    "gather_rows": ("int",),
    "gather_columns": ("int",),
    "qmv": ("float",),
    "qvm": ("float",),
}

# Their promise is an error bound, not bits, and unpacking is exact either way.
PRODUCTS = ("qmv", "qvm")


def text(form: Format, loop: str, dtype: str, scales: str, has_g_idx: bool = False) -> str:
    """The C++ of a program: what is compiled, and what names it in the cache."""
    kinds = [kind for _, kind in INPUTS[form.family]]
    scales_type = TYPES[scales]
    held = ", ".join(f"(const {scales_type if kind == 'S' else kind}*)p[{i}]" for i, kind in enumerate(kinds))
    given = [f"(const {kind}*)p[{len(kinds) + i}]" for i, kind in enumerate(LOOPS[loop])]
    out = f"({TYPES[dtype]}*)p[{len(kinds) + len(given)}]"
    call = ", ".join([f"{form.family}<{struct(form, has_g_idx)}>({held}, sizes)", *given, out, "sizes", "begin", "end"])
    return f"""{inline([METAL / "platform" / "cpu.h"])}
{sources(form, FOLDER / f"{loop}.cpp")}
extern "C" void run(void* const* p, const uint* sizes, size_t begin, size_t end) {{
  using namespace mlx_dequant;
  {loop}<{struct(form, has_g_idx)}>({call});
}}
"""


@cache
def _library(form: Format, loop: str, dtype: str, scales: str, has_g_idx: bool) -> Run | None:
    name = f"{loop} {form.name}"
    path = compiled(name, text(form, loop, dtype, scales, has_g_idx), contract=loop in PRODUCTS)
    if path is None:
        return None
    try:
        run = ctypes.CDLL(str(path)).run
    except (OSError, AttributeError) as error:  # say, a cache on a disk that allows no programs
        warn_of_slowness(name, error)
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    run.restype = None
    return run


def library(weight: QuantizedWeight, loop: str, dtype: mx.Dtype = mx.float32) -> Run | None:
    """A loop over `weight` that gives `dtype`, or None where it cannot be compiled."""
    names = dtypes.name(dtype), dtypes.name(weight.scales_dtype)
    return _library(weight.format, loop, *names, weight.has_g_idx)
