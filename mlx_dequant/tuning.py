"""The dispatcher's tables: what each platform's GPUs want, a column each, with the reason of each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# Rows of x that one pass over a quantized matrix serves: qmv and qvm are compiled for these counts.
PASS_ROWS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        platform: "metal" or "cuda".
        generation: what it can do: CUDA's compute capability times ten; 0 where it is not known.
    """

    platform: str
    generation: int = 0


@dataclass(frozen=True)
class Route:
    """A row of a table: from `M` rows of x on, where all of `when` holds, this is how to multiply, and why."""

    M: int
    name: str
    when: frozenset[str]
    reason: str


@dataclass(frozen=True)
class Block:
    """The block of a threadgroup of qmm: BM rows of x, TK inputs of each of four lanes."""

    bm: int
    tk: int

    @property
    def bk(self) -> int:
        """Inputs of a step."""
        return 4 * self.tk


@dataclass(frozen=True)
class Tuning:
    """The column of a platform.

    Attributes:
        routes: the first whose conditions hold is taken.
        qmv_shape: by rows of x of a pass, rows of the matrix that a simdgroup multiplies at once, reading x once for
            them, and the longest run of a lane: what registers hold.
        few_rows: a matrix with fewer rows leaves a GPU idle with a simdgroup for each: eight share them.
        long_rows: for one row of x, four simdgroups share a matrix's rows from this many columns on.
        qvm_threadgroups: threadgroups that qvm spreads over.
        qvm_threadgroups_one_row: the same for one row of x and layout KN, by columns of a lane.
        blocks: of qmm, by the layout that it reads the matrix in, smallest first.
        qmm_threadgroups: threadgroups that the device holds at once, by rows of x of a block.
        permute_whole_rows: rows of x from which each is permuted by a threadgroup: fewer leave a GPU idle.
        permute_kilobytes: threadgroup memory that may hold a row of x, smallest first.
        matrix_units_few: whether qmv_mma exists.
    """

    routes: tuple[Route, ...]
    qmv_shape: Mapping[int, tuple[int, int]]
    few_rows: int
    long_rows: int
    qvm_threadgroups: int
    qvm_threadgroups_one_row: Mapping[int, int]
    blocks: Mapping[str, tuple[Block, ...]]
    qmm_threadgroups: Mapping[int, int]
    permute_whole_rows: int
    permute_kilobytes: tuple[int, ...]
    matrix_units_few: bool


def _route(M: int, name: str, when: str, reason: str) -> Route:
    return Route(M, name, frozenset(each for each in when.split(", ") if each), reason)


# Conditions of a route, of which dispatch.py says when they hold:
#   float32 x        matrix units multiply two-byte types
#   looked up        inputs that a lane of qmm takes may be of several groups
#   looked up by two the same, for two outputs at once (layout KN)
_GEMV = _route(1, "gemv", "", "one pass over the matrix serves 8 rows of x, with float32's error")
_NO_UNITS = (
    _route(129, "dequantize_then_gemm", "float32 x", "MLX's product may use TF32, so it waits until it saves much"),
    _route(1, "gemv", "float32 x", "matrix units multiply two-byte types"),
)
_LOOKED_UP = (
    _route(257, "dequantize_then_gemm", "looked up", "fused, each input looks its scale up again for every block"),
    _route(17, "fused_gemm", "looked up", "matrix units, though each input looks its scale up"),
)
_UNMEASURED = (
    *_NO_UNITS,
    *_LOOKED_UP,
    _route(385, "dequantize_then_gemm", "", "not measured on this device: MLX's product should win by then"),
    _route(17, "fused_gemm", "", "matrix units, decoded in registers: the packed matrix is read once a block"),
    _GEMV,
)
_HOPPER_ROUTES = (
    *_NO_UNITS,
    _route(769, "dequantize_then_gemm", "looked up by two", "measured: two outputs share a look-up"),
    _route(17, "fused_gemm", "looked up by two", "measured: matrix units, though each input looks its scale up"),
    *_LOOKED_UP,
    _route(256, "dequantize_then_gemm", "", "measured: 0.74 to 0.98 of the time of the fused kernel from here on"),
    _route(17, "fused_gemm", "", "measured: the packed matrix is read once a block, decoded in registers"),
    _GEMV,
)

METAL = Tuning(
    routes=_UNMEASURED,
    qmv_shape={1: (4, 32), 2: (2, 32), 4: (2, 16), 8: (2, 8)},
    few_rows=2048,
    long_rows=4096,
    qvm_threadgroups=264,
    qvm_threadgroups_one_row={8: 528, 4: 396},
    # 32 KB of threadgroup memory.
    blocks={"NK": (Block(32, 16), Block(64, 16)), "KN": (Block(32, 16), Block(64, 16))},
    qmm_threadgroups={32: 264, 64: 264},
    permute_whole_rows=64,
    permute_kilobytes=(8, 16, 28),
    matrix_units_few=False,
)

CUDA = Tuning(
    routes=_UNMEASURED,
    qmv_shape={1: (4, 32), 2: (2, 32), 4: (2, 16), 8: (2, 8)},
    few_rows=2048,
    long_rows=4096,
    # As many as an H100 holds at once, two on each processor.
    qvm_threadgroups=264,
    qvm_threadgroups_one_row={8: 528, 4: 396},
    # 99 KB of shared memory or more.
    blocks={
        "NK": (Block(32, 32), Block(64, 32), Block(128, 32)),
        "KN": (Block(32, 32), Block(64, 32), Block(128, 32)),
    },
    qmm_threadgroups={32: 264, 64: 264, 128: 132},
    permute_whole_rows=64,
    # 48 KB, and 99 since sm_80. From 28 on, an H100 holds 7, 5, 4, 3 and 2 such threadgroups on each processor.
    permute_kilobytes=(8, 16, 28, 44, 56, 75, 99),
    matrix_units_few=True,
)

HOPPER = replace(
    CUDA,
    routes=_HOPPER_ROUTES,
    blocks={
        "NK": (Block(32, 32), Block(128, 32)),
        "KN": (Block(32, 16), Block(64, 16), Block(128, 32)),
    },
)

# CUDA devices before sm_80 have neither mma.sync of these shapes nor asynchronous copies.
OLD_CUDA = replace(
    CUDA,
    routes=(
        _route(129, "dequantize_then_gemm", "", "no matrix unit of ours runs on this device"),
        _GEMV,
    ),
    permute_kilobytes=(8, 16, 28, 44),
    matrix_units_few=False,
)


def tuning(device: Device) -> Tuning:
    """The column of a device."""
    if device.platform == "metal":
        return METAL
    if device.generation < 80:
        return OLD_CUDA
    return HOPPER if device.generation == 90 else CUDA


def columns(platform: str) -> tuple[Tuning, ...]:
    """The columns of a platform."""
    return (METAL,) if platform == "metal" else (CUDA, HOPPER, OLD_CUDA)
