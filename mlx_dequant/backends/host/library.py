"""The host's programs: a format, a row loop and the C function that Python calls."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ...programs import INPUTS, METAL, TYPES, inline, sources
from ...registry import Format
from .compiler import compiled

if TYPE_CHECKING:
    from ...weights.base import PackedWeight

LOOPS = Path(__file__).parent / "loops"


@dataclass(frozen=True)
class Library:
    """A loaded program. `run(arguments, sizes, begin, end)` does part of the loop."""

    run: Any


def text(form: Format, loop: str, dtype: str, scales: str) -> str:
    """The C++ of a program: what is compiled, and what names it in the cache."""
    types = {"S": f"mlx_dequant::{TYPES[scales]}" if scales == "bfloat16" else TYPES[scales]}
    held = INPUTS[form.family]
    arguments = ", ".join(f"(const {types.get(kind, kind)}*)p[{i}]" for i, (_, kind) in enumerate(held))
    header = inline([METAL / "prelude" / "cpu.h"])
    call = ", ".join(
        [f"{form.family}({arguments}, sizes)", f"({TYPES[dtype]}*)p[{len(held)}]", "sizes", "begin", "end"]
    )
    return f"""{header}
{sources(form, LOOPS / f"{loop}.cpp")}
extern "C" void run(void* const* p, const uint* sizes, size_t begin, size_t end) {{
  using namespace mlx_dequant;
  {loop}<{form.name}>({call});
}}
"""


@cache
def _library(form: Format, loop: str, dtype: str, scales: str) -> Library | None:
    path = compiled(f"{loop} {form.name}", text(form, loop, dtype, scales))
    if path is None:
        return None
    function = ctypes.CDLL(str(path)).run
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    function.restype = None
    return Library(function)


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def dequantize_library(weight: PackedWeight, dtype: mx.Dtype) -> Library | None:
    """The unpacking loop of a weight, or None where it cannot be compiled."""
    return _library(weight.format, "dequantize", _name(dtype), _name(weight.scales_dtype))
