"""Kernel sources: a platform, a format and a kernel, put together from the files under `metal/`."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import kernels
from .encoded import PARAMS
from .kernel_declarations import used
from .kernel_names import shortened
from .kernel_text import without_comments, without_spaces
from .kernels import THREADS, KernelSpec
from .registry import FAMILIES, METAL, Format

# C++ names of the element types, the same on every compiler.
TYPES = {"float32": "float", "float16": "float16_t", "bfloat16": "bfloat16_t"}

_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
_FIELD = re.compile(r"^  uint (\w+);", re.MULTILINE)

# MLX writes a kernel's declaration after the header and offers no launch bounds.
_RESIDENT = """#undef __global__
#define __global__ __attribute__((global)) __launch_bounds__({}, {})
"""

# A threadgroup's number in the grid, and a thread's in its threadgroup.
_INDICES = {
    "metal": ("threadgroup_position_in_grid.x", "thread_position_in_threadgroup.x"),
    "cuda": ("blockIdx.x", "threadIdx.x"),
}

# Which expert of a stack a threadgroup multiplies with: that of a pair, or of a tile of sorted pairs.
_PAIR = "size_t expert = mlx_dequant::stack_index(ids, {}, p);"
_TILE = """mlx_dequant::expert_tile tile = mlx_dequant::find_tile<{}>(ids, {}, {}, p);
size_t expert = mlx_dequant::stack_index(tile, p);"""


@dataclass(frozen=True)
class KernelSource:
    """What a backend compiles. The name contains a hash of the text, so no two sources share it.

    Attributes:
        scratch: floats of threadgroup memory.
    """

    name: str
    header: str
    body: str
    scratch: int


@cache
def readable() -> bool:
    """Whether kernels keep their comments, lines and unused functions, for debugging."""
    return os.environ.get("MLX_DEQUANT_READABLE") == "1"


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")


def inline(paths: list[Path], seen: set[Path] | None = None) -> str:
    """The text of the files, each file once, with quoted includes inlined and `#line` directives."""
    seen = set() if seen is None else seen
    parts: list[str] = []
    for path in paths:
        path = path.resolve()
        if path in seen:
            continue
        seen.add(path)
        text = _read(path)
        name = path.parent.name + "/" + path.name
        parts.append(f'#line 1 "{name}"')
        at = 0
        for match in _INCLUDE.finditer(text):
            parts.append(text[at : match.start()].rstrip("\n"))
            parts.append(inline([path.parent / match.group(1)], seen))
            line = text.count("\n", 0, match.end()) + 2
            parts.append(f'#line {line} "{name}"')
            at = match.end() + 1
        parts.append(text[at:].rstrip("\n"))
    return "\n".join(parts)


def struct(form: Format, has_g_idx: bool) -> str:
    """The name of the struct that decodes a format; act-order has a struct of its own."""
    return f"{form.name}_g_idx" if has_g_idx else form.name


def has_view(form: Format) -> bool:
    """Whether `metal/cuda/views` has the family's codes as pairs of halves."""
    return (METAL / "cuda" / "views" / f"{form.family}.h").is_file()


def sources(form: Format | None, files: list[Path]) -> str:
    """The launch parameters, the format, if any, and other files, in their namespace; no platform."""
    paths = [METAL / "launch_params.metal"]
    check = ""
    if form:
        loader = [METAL / "formats/gguf/loader.metal"] if form.family == "gguf" else []
        paths += [*loader, METAL / form.source]
        check = _size_check(form)
    text = inline([*paths, *files])
    names = tuple(_FIELD.findall(_read(METAL / "launch_params.metal")))
    if names != PARAMS:
        raise ValueError(f"launch_params.metal: found the fields {names}, expected {PARAMS}")
    return f"namespace mlx_dequant {{\n{text}\n{check}\n}}  // namespace mlx_dequant\n"


def _size_check(form: Format) -> str:
    """A static_assert that the registry and the shader agree on a format's sizes."""
    if form.family == "gguf":
        facts = f"{form.name}::weights == {form.weights} && {form.name}::bytes == {form.bytes}"
    else:
        facts = f"{form.name}::bits == {form.bits}"
    return f'static_assert({facts}, "the registry\'s sizes of {form.name}");'


def arrays_of(form: Format) -> list[str]:
    """Names of the arrays that kernels take for a matrix, in order: its own, and its format's table."""
    return [*(name for name, _ in FAMILIES[form.family].arrays), *(["table"] if form.table else [])]


def table(form: Format) -> list[int]:
    """The words of 32 bits of a format's table."""
    entries = re.findall(r"0x(\w+)", _read(METAL / f"formats/tables/{form.table}.metal"))
    count = 8 // len(entries[0])  # in a word, the first in its low bits
    return [int("".join(reversed(entries[at : at + count])), 16) for at in range(0, len(entries), count)]


def loader(form: Format, decoder: str, pointers: list[str], first: list[str] | None = None) -> str:
    """An expression of a family's loader over arrays, by default whole ones, or over a stack's from element `first`."""
    if form.family == "gguf":
        pointers = pointers if form.table else [*pointers, "0"]
    else:
        places = first or ["0"] * len(pointers)
        pointers = [f"mlx_dequant::part_of({array}, {place})" for array, place in zip(pointers, places, strict=True)]
    return f"mlx_dequant::{form.family}<{decoder}>({', '.join(pointers)}, p)"


def _ways(platform: str, form: Format, spec: KernelSpec) -> list[str]:
    """The structs that are template arguments of a kernel: what it does in one of several ways."""
    ways = (
        kernels.loop(platform, spec, form.traits.get("scale_block", 8)),
        kernels.loads(spec, FAMILIES[form.family].layout),
        kernels.pairs(spec, form.bits),
    )
    return [f"mlx_dequant::{way}" for way in ways if way]


def _element_types(form: Format | None, *names: str) -> str:
    """What C++ calls the element types of a kernel's arrays: the matrix's own, and those in `names`."""
    kinds = [kind for _, kind in FAMILIES[form.family].arrays] if form else []
    words: list[str] = re.findall(r"\w+", " ".join([*names, *kinds]))
    return " ".join(TYPES.get(word, word) for word in words)


def _header(platform: str, form: Format | None, spec: KernelSpec, lut_words: int) -> str:
    """What a kernel includes, with all that it may use."""
    headers = [METAL / f"platform/{platform}.h"]
    if spec.unit:
        headers.append(METAL / kernels.UNITS[spec.unit])
    files = [METAL / spec.folder / f"{spec.name}.metal"]
    if spec.unit == "half2" and form:
        files.insert(0, METAL / "cuda" / "views" / f"{form.family}.h")
    text = inline(headers) + "\n" + sources(form, files)
    return f"#define SHARED_LUT\n{text}" if lut_words else text


def _lut_words(platform: str, form: Format | None, spec: KernelSpec) -> int:
    """Words of a format's table that a kernel copies to threadgroup memory."""
    copied = form and form.table and spec.lut_in_shared and platform == "cuda"
    return form.traits["lut_words"] if form and copied else 0


def _find_expert(spec: KernelSpec, threadgroup: str, thread: str) -> list[str]:
    if not spec.stacked:
        return []
    found = _TILE.format(spec.tile, threadgroup, thread) if spec.tile else _PAIR.format(threadgroup)
    return found.splitlines()


def _loader_of(form: Format, spec: KernelSpec, decoder: str) -> str:
    """The loader of a kernel's matrix, or of an expert's in a stack."""
    arrays = [array for array, _ in FAMILIES[form.family].arrays]
    first = None
    # Blocks may have more than 2^32 bytes, and a tile's many loads share a pointer.
    if spec.stacked and (spec.tile or form.family == "gguf"):
        arrays = [f"{array} + expert * p.expert_stride_{i}" for i, array in enumerate(arrays)]
    elif spec.stacked:
        first = [f"uint(expert * p.expert_stride_{i})" for i in range(len(arrays))]
    return loader(form, decoder, [*arrays, *(["table"] if form.table else [])], first)


@cache
def kernel_source(
    platform: str,
    form: Format | None,
    spec: KernelSpec,
    dtype: str,
    scale_dtype: str = "",
    has_g_idx: bool = False,
    input_dtype: str = "",
) -> KernelSource:
    """The source of a kernel for `platform` "metal" or "cuda".

    Args:
        form: the matrix's format, or None for a kernel that reads no matrix.
        dtype: type of the output, a key of `TYPES`.
        scale_dtype: type of the scales, a key of `TYPES`; ignored for GGUF.
        has_g_idx: whether each input's group is looked up, where the kernel multiplies nothing.
        input_dtype: types of the inputs after the matrix's arrays, which MLX writes into the kernel.
    """
    threadgroup, thread = _INDICES[platform]
    lut_words = _lut_words(platform, form, spec)
    name, template = spec.name, [TYPES[dtype], *map(str, spec.template)]
    # The ids of a tile are looked at here.
    arguments = [*(given for given in spec.inputs if given != "ids" or not spec.tile), "out", "p"]
    lines = ["mlx_dequant::LaunchParams p = *(device const mlx_dequant::LaunchParams*)params;"]
    if lut_words:
        lines.append(f"mlx_dequant::load_lut<{lut_words}>(table, {thread});")
    if spec.scratch:
        lines.append(f"SCRATCH(float, scratch, {lut_words + spec.scratch});")
        arguments.append(f"scratch + {lut_words}" if lut_words else "scratch")
    if form:
        decoder = f"mlx_dequant::{struct(form, has_g_idx)}"
        name += f"_{struct(form, has_g_idx)}"
        if spec.permuted:
            decoder = f"mlx_dequant::permuted_{spec.permuted}<{decoder}>"
            name += f"_permuted_{spec.permuted}"
        lines += _find_expert(spec, threadgroup, thread)
        lines.append(f"auto loader = {_loader_of(form, spec, decoder)};")
        template = [decoder, *template, *_ways(platform, form, spec)]
        arguments.insert(0, "loader")
    arguments += ["tile" if spec.tile else threadgroup, thread]
    lines.append(f"mlx_dequant::{spec.name}<{', '.join(template)}>({', '.join(arguments)});")
    header, body = _header(platform, form, spec, lut_words), "\n".join(lines) + "\n"
    if not readable():
        given = [*arrays_of(form), *spec.inputs] if form else spec.inputs
        types = _element_types(form, dtype, scale_dtype, input_dtype)
        header = without_spaces(used(without_comments(header), f"{body} {types}"))
        header, body = shortened(header, body, [*given, "out", "params"])
    if spec.resident and platform == "cuda":
        header += _RESIDENT.format(THREADS, spec.resident)
    digest = hashlib.sha256(f"{header}{body}{scale_dtype}{input_dtype}".encode()).hexdigest()[:16]
    return KernelSource(f"{name}_{dtype}_{digest}", header, body, lut_words + spec.scratch)
