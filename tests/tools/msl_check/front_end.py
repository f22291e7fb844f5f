"""Parses Metal text with the `libclang` wheel: its "C++ for OpenCL" front end keeps address spaces apart.

In front of a program stands what MLX puts there: Metal's library, as the shim declares it, and MLX's own
preamble, from the headers of the installed `mlx`. A program for torch has a preamble of this package.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import mlx.core as mx
from clang import cindex

SHIM = Path(__file__).parent / "shim"
MLX = Path(mx.__file__).parent / "include"
PREAMBLE = "mlx/backend/metal/kernels/utils.h"

_EXTENSIONS = (
    "-__opencl_c_program_scope_global_variables",
    "-__opencl_c_device_enqueue",
    "-__opencl_c_fp64",
    "-cl_khr_fp64",
    "+cl_khr_fp16",
    "+__cl_clang_non_portable_kernel_param_types",
)
_ARGUMENTS = (
    *("-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-target", "x86_64-unknown-linux-gnu"),
    *("-isystem", str(SHIM), "-isystem", str(MLX)),
    *("-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion"),
    *("-Wno-unused", "-Wno-unused-parameter", "-Wno-unknown-attributes", "-Wno-unknown-pragmas"),
    *("-Xclang", "-cl-ext=" + ",".join(_EXTENSIONS)),
)


def _preamble() -> str:
    """MLX's headers as they are, but for `thread`: their constructors would not make temporaries in it here."""
    functions = sorted(set(re.findall(r"__metal_\w+", (MLX / PREAMBLE).with_name("bf16_math.h").read_text())))
    return "\n".join(
        [
            "#include <metal_stdlib>",
            *(f"template <typename... A> float {name}(A...);" for name in functions),
            *(f"#define __METAL_{kind}_MATH__ 0" for kind in ("MAYBE_FAST", "FAST", "PRECISE")),
            "#undef thread",
            "#define thread",
            f'#include "{PREAMBLE}"',
            "#undef thread",
            "#define thread __private",
            "",
        ]
    )


def _parsed(text: str, *arguments: str) -> cindex.TranslationUnit:
    index = cindex.Index.create(excludeDecls=True)
    return index.parse("program.metal", args=[*arguments, *_ARGUMENTS], unsaved_files=[("program.metal", text)])


@cache
def _precompiled(preamble: str = "") -> tuple[tempfile.TemporaryDirectory, str, frozenset[str]]:
    unit = _parsed(f"{preamble}#undef thread\n#define thread __private\n" if preamble else _preamble())
    said = [str(diagnostic) for diagnostic in unit.diagnostics]
    assert not said, f"the preamble does not parse behind the shim: {said}"
    folder = tempfile.TemporaryDirectory()
    path = str(Path(folder.name) / "preamble.pch")
    unit.save(path)
    names = {
        cursor.spelling
        for space in unit.cursor.get_children()
        if space.kind == cindex.CursorKind.NAMESPACE and space.spelling == "metal"
        for cursor in space.get_children()
        if cursor.kind in (cindex.CursorKind.FUNCTION_DECL, cindex.CursorKind.FUNCTION_TEMPLATE)
    }
    return folder, path, frozenset(names)


def parse(text: str, preamble: str = "") -> cindex.TranslationUnit:
    """A whole program, as MLX prints it, behind MLX's preamble or another."""
    # The front end knows kernels by the keyword alone.
    return _parsed(text.replace("[[kernel]]", "__kernel"), "-include-pch", _precompiled(preamble)[1])


def metal_functions() -> frozenset[str]:
    """Names of functions in namespace metal, which `using namespace metal` makes everyone's."""
    return _precompiled()[2]
