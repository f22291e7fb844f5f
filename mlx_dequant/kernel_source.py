"""Programs: a prelude, a format and a kernel put together, from the files under `metal/`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .registry import Format

METAL = Path(__file__).parent / "metal"

# C++ names of the element types, the same on every compiler.
TYPES = {"float32": "float", "float16": "float16_t", "bfloat16": "bfloat16_t"}

# The arrays that hold a weight, family by family: name and element type, S for the scales' type.
INPUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "gguf": (("blocks", "uint8_t"),),
    "awq": (("qweight", "int"), ("qzeros", "int"), ("scales", "S")),
    "gptq": (("qweight", "int"), ("qzeros", "int"), ("scales", "S"), ("g_idx", "int")),
    "compressed_tensors": (("codes", "int"), ("scales", "S"), ("zeros", "int"), ("g_idx", "int")),
}

_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """What a backend compiles. The name holds a hash of the text: no two programs share it.

    Attributes:
        scratch: floats of threadgroup memory.
    """

    name: str
    header: str
    body: str
    scratch: int


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")


def inline(paths: list[Path], seen: set[Path] | None = None) -> str:
    """The files' text, each once, with quoted includes in place and `#line`s that name the files."""
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
    """The struct that decodes a format: one of its own for act-order."""
    return f"{form.name}_g_idx" if has_g_idx else form.name


def _size_check(form: Format) -> str:
    """Fails to compile when the registry and the shader disagree on a format's sizes."""
    if form.family == "gguf":
        facts = f"{form.name}::weights == {form.weights} && {form.name}::bytes == {form.bytes}"
        if form.table:
            facts += f" && sizeof({form.table}) == {4 * form.table_words}"
    else:
        facts = f"{form.name}::bits == {form.bits}"
    return f'static_assert({facts}, "the registry\'s sizes of {form.name}");'


def sources(form: Format | None, operation: Path) -> str:
    """The format, where there is one, and the operation in their namespace, without a prelude."""
    paths = [operation]
    check = ""
    if form:
        paths = [METAL / "formats/launch_params.metal", METAL / form.source, operation]
        check = _size_check(form)
    if form and form.family == "gguf":
        paths.insert(1, METAL / "formats/gguf/loader.metal")
    return f"namespace mlx_dequant {{\n{inline(paths)}\n{check}\n}}  // namespace mlx_dequant\n"


@dataclass(frozen=True)
class Kernel:
    """A file under `metal/kernels/` and what its launch needs besides a weight.

    Every kernel is called the same way, by threadgroups of 256:
    `kernel<format, T, parameters ...>(source, inputs ..., out, sizes, scratch, threadgroup index,
    thread index)`, without `scratch` where it needs none, without format and source where it is not
    about a weight.

    Attributes:
        inputs: arrays besides the weight's.
        parameters: numbers that the program is compiled for.
        scratch: floats of threadgroup memory.
        prelude: what it needs of a target besides, "tiles" say; "" for nothing.
        near: whether a format's table is copied to threadgroup memory first, on CUDA.
        cluster: threadgroups that share memory, on a device that has clusters.
        resident: threadgroups that a processor must have registers for, on CUDA; 0 leaves that to the compiler.
    """

    name: str
    inputs: tuple[str, ...] = ()
    parameters: tuple[int, ...] = ()
    scratch: int = 0
    prelude: str = ""
    near: bool = False
    cluster: int = 1
    resident: int = 0

    @property
    def file(self) -> str:
        """Below `metal/`."""
        return f"{'cuda' if self.prelude == 'pairs' else 'kernels'}/{self.name}.metal"


THREADS = 256

_MATRIX_UNITS = {
    ("metal", "tiles"): "platform/metal_mma.h",
    ("cuda", "tiles"): "cuda/qmm.h",
    ("cuda", "pairs"): "cuda/half2_mma.h",
}

# MLX writes a kernel's declaration after the header, and has no word for these.
ATTRIBUTES = """#undef __global__
#define __global__ __attribute__((global)) {}
"""

# Vectors that one pass over a packed weight serves: products are compiled for these counts.
COUNTS = (1, 2, 4, 8)

# Rows that a thread unpacks; the sources say the same, and programs compare them.
ROWS_PER_THREAD = {"gguf": 1, "awq": 4, "gptq": 8, "compressed_tensors": 4}

DEQUANTIZE = Kernel("dequantize")
TAKE = Kernel("gather_rows", ("ids",))
TAKE_TRANSPOSED = Kernel("gather_columns", ("ids",))
# Rows that a simdgroup multiplies at once, reading x once for them, and the longest run of a lane,
# by vectors: what registers hold (bench/NOTES.md).
PRODUCT_ROWS = {1: 4, 2: 2, 4: 2, 8: 2}
PRODUCT_RUN = {1: 32, 2: 32, 4: 16, 8: 8}

# By vectors and by simdgroups that share rows.
PRODUCT = {
    (m, split): Kernel("qmv", ("x",), (m, split, PRODUCT_ROWS[m], PRODUCT_RUN[m]), 8 * PRODUCT_ROWS[m] * m, near=True)
    for m in COUNTS
    for split in ((1, 4, 8) if m == 1 else (1, 8))
}
# Columns that a lane takes of a transposed product of one or two vectors, checked like ROWS_PER_THREAD; of more, 8.
# A threadgroup has 128 lanes side by side.
QVM_COLUMNS = {"gguf": 8, "awq": 8, "gptq": 4, "compressed_tensors": 8}
# By vectors.
PRODUCT_TRANSPOSED = {m: Kernel("qvm", ("x",), (m,), 8 * 256) for m in COUNTS}
# By mma.sync, on CUDA: by vectors, by outputs that four lanes share, and by inputs of each of them. Of a threadgroup's
# outputs there are 16 times as many.
MMA_OUTPUTS = {"gguf": 8, "awq": 8, "gptq": 8, "compressed_tensors": 4}
PRODUCT_MMA = {
    (m, outputs, run): Kernel(
        "qmv_mma", ("x",), (m, outputs, run), 4 * 16 * outputs, prelude="pairs", near=True, resident=2
    )
    for m in (1, 8)
    for outputs in (4, 8)
    for run in (32, 8)
}
# The formats of GGUF for that, by inputs of a lane: four have to share a scale, times whole numbers that float16 has.
_MMA_GGUF = {
    32: ("q3_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "tq1_0", "tq2_0", "q1_0"),
    8: ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "iq4_nl", "iq4_xs", "q2_0"),
}
# Of those, the ones whose whole numbers bfloat16 does not have.
NOT_BFLOAT16 = ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")


def mma_least(form: Format) -> dict[int, int]:
    """By inputs of a lane, the vectors from which `PRODUCT_MMA` was faster: eight take as long as one there."""
    if form.family == "gguf":
        return {run: 1 if form.name == "q1_0" else 3 for run, names in _MMA_GGUF.items() if form.name in names}
    single = form.family == "gptq" or form.name == "ct2"
    return {32: 1 if single else 2, 8: 3 if form.family == "compressed_tensors" else 2}


def mma_kernels(form: Format) -> set[Kernel]:
    """Those of `PRODUCT_MMA` that are for a format."""
    outputs = MMA_OUTPUTS[form.family]
    return {PRODUCT_MMA[m, outputs, run] for run, least in mma_least(form).items() for m in (1, 8) if m >= least}


@dataclass(frozen=True)
class Tile:
    """A tile of a product of many vectors: how many, inputs of a lane's run, threadgroups of a cluster that share x."""

    vectors: int
    run: int
    cluster: int = 1

    @property
    def step(self) -> int:
        """Inputs that it takes at a time: four lanes share an output."""
        return 4 * self.run


# For products by rows of outputs and by columns of them. Metal has 32 KB of threadgroup memory, and
# CUDA devices 99 or more.
TILES = {
    "metal": ((Tile(32, 16), Tile(64, 16)),) * 2,
    "cuda": ((Tile(32, 32), Tile(64, 32), Tile(128, 32)),) * 2,
    "hopper": (
        (Tile(32, 32), Tile(64, 32), Tile(128, 32), Tile(256, 32), Tile(256, 32, 2)),
        (Tile(32, 16), Tile(64, 16), Tile(128, 32), Tile(256, 32), Tile(256, 32, 2)),
    ),
}
TILE_OUTPUTS = 128


@cache
def product_tiled(by_inputs: bool, tile: Tile) -> Kernel:
    """A product by one of `TILES`."""
    # Two-byte elements: x twice, Hopper's barriers, and 512 for each of 8 simdgroups to exchange weights or, on
    # Hopper only, 41 KB for each of two pairs of steps to come.
    elements = 2 * tile.vectors * tile.step + 64 + (41 * 1024 if tile.vectors == 256 else 8 * 512)
    parameters = (int(by_inputs), tile.vectors, tile.run, tile.cluster)
    return Kernel("qmm", ("x",), parameters, elements // 2, "tiles", near=True, cluster=tile.cluster)


@cache
def arrange(tile: Tile) -> Kernel:
    """What puts x as a product by one of `TILES` wants it."""
    return Kernel("pack_activations", ("x",), (tile.vectors, tile.run), prelude="tiles")


REORDER = Kernel("permute_columns", ("x", "order"))
# Inputs of a threadgroup; the source says the same.
REORDER_PART = 16384
# KB of threadgroup memory that may hold a vector: Metal has 32, CUDA devices 48 and since sm_80 at least 99. From 28
# on, an H100 holds 7, 5, 4, 3 and 2 such threadgroups on each of its processors.
REORDER_WHOLE = {"metal": (8, 16, 28), "cuda": (8, 16, 28, 44, 56, 75, 99)}


@cache
def reorder_whole(size: int) -> Kernel:
    """What reorders vectors that one of `REORDER_WHOLE` has room for."""
    return Kernel("permute_columns", ("x", "order"), scratch=256 * size)


ADD_PARTS = Kernel("split_k_reduce", ("parts",))


def kernels(target: str, form: Format) -> set[Kernel]:
    """All that a backend may launch for a format."""
    found = {DEQUANTIZE, TAKE, TAKE_TRANSPOSED, REORDER, ADD_PARTS, *PRODUCT.values(), *PRODUCT_TRANSPOSED.values()}
    found |= {reorder_whole(size) for size in REORDER_WHOLE[target]}
    for name in ("cuda", "hopper") if target == "cuda" else ("metal",):
        for by_inputs, tiles in enumerate(TILES[name]):
            found |= {kernel for tile in tiles for kernel in (product_tiled(bool(by_inputs), tile), arrange(tile))}
    return found | (mma_kernels(form) if target == "cuda" else set())


@cache
def program(
    target: str,
    form: Format | None,
    kernel: Kernel,
    dtype: str,
    scales: str = "",
    has_g_idx: bool = False,
    given: str = "",
) -> Program:
    """The program of a kernel for `target` "metal" or "cuda".

    Args:
        form: the weight's format, or None for a kernel that is not about a weight.
        dtype: type of the output, a key of `TYPES`.
        scales: type of the scales, a key of `TYPES`; ignored for GGUF.
        has_g_idx: whether the weight says so.
        given: type of the kernel's first input besides the weight's; MLX writes it into the text.
    """
    operation = METAL / kernel.file
    platform = [METAL / f"platform/{target}.h"]
    if kernel.prelude:
        platform.append(METAL / _MATRIX_UNITS[target, kernel.prelude])
    header = inline(platform) + "\n" + sources(form, operation)
    if kernel.cluster > 1:
        header += ATTRIBUTES.format(f"__cluster_dims__({kernel.cluster}, 1, 1)")
    if kernel.resident:
        header += ATTRIBUTES.format(f"__launch_bounds__({THREADS}, {kernel.resident})")
    template = [TYPES[dtype], *map(str, kernel.parameters)]
    arguments = [*kernel.inputs, "out", "sizes"]
    lines: list[str] = []
    near = 0
    if form and kernel.near and target == "cuda" and form.table:
        near = form.table_words
        header = f"#define SHARED_LUT\n{header}"
        lines.append(f"mlx_dequant::load_lut<{near}>(mlx_dequant::{form.table}, thread_position_in_threadgroup.x);")
    if kernel.scratch:
        lines.append(f"SCRATCH(float, scratch, {near + kernel.scratch});")
        arguments.append(f"scratch + {near}" if near else "scratch")
    if form:
        held = ", ".join(name for name, _ in INPUTS[form.family])
        lines.append(
            f"auto loader = mlx_dequant::{form.family}<mlx_dequant::{struct(form, has_g_idx)}>({held}, sizes);"
        )
        lines.append(
            f'static_assert(decltype(loader)::rows_per_thread == {ROWS_PER_THREAD[form.family]}, "ROWS_PER_THREAD");'
        )
        wide = QVM_COLUMNS[form.family]
        lines.append(f'static_assert(decltype(loader)::qvm_columns == {wide}, "QVM_COLUMNS");')
        template.insert(0, f"mlx_dequant::{struct(form, has_g_idx)}")
        arguments.insert(0, "loader")
    arguments += ["threadgroup_position_in_grid.x", "thread_position_in_threadgroup.x"]
    lines.append(f"mlx_dequant::{kernel.name}<{', '.join(template)}>({', '.join(arguments)});")
    body = "\n".join(lines) + "\n"
    digest = hashlib.sha256(f"{header}{body}{scales}{given}".encode()).hexdigest()[:16]
    name = f"{kernel.name}_{struct(form, has_g_idx)}" if form else kernel.name
    return Program(f"{name}_{dtype}_{digest}", header, body, near + kernel.scratch)
