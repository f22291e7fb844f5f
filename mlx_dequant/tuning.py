"""The dispatcher's tables: a column of numbers for each kind of GPU, and routes with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# The values of BM, the rows of x in one pass over the matrix, that qmv and qvm are compiled for.
PASS_ROWS = (1, 2, 4, 8)
# Up to this many rows of x, products use exact weights; with more rows, weights are rounded to x's type.
EXACT_ROWS = 16


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        platform: "metal" or "cuda".
        generation: CUDA's compute capability times ten; Apple's own number, 17 for an M5; 0 if not known.
    """

    platform: str
    generation: int = 0


@dataclass(frozen=True)
class Route:
    """A row of a table: the route from `M` rows of x on, if all conditions of `when` hold, and why."""

    M: int
    name: str
    when: frozenset[str]
    reason: str


@dataclass(frozen=True)
class Block:
    """The block of a threadgroup of qmm: BM rows of x, and TK inputs for each of four lanes.

    Attributes:
        unit: what multiplies, a key of `kernels.UNITS`.
    """

    bm: int
    tk: int
    unit: str

    @property
    def shape(self) -> tuple[int, int, str]:
        """What the kernel is made for."""
        return self.bm, self.tk, self.unit

    @property
    def bk(self) -> int:
        """Inputs in a step."""
        return 4 * self.tk


@dataclass(frozen=True)
class Tuning:
    """The column of a kind of GPU.

    Attributes:
        routes: the first whose conditions hold is taken.
        qmv_shape: by BM: the rows of the matrix that a simdgroup multiplies at once, reading x once, and the most
            columns that a lane takes at once. Registers limit both.
        qmv_permuted_shape: the same where x is read in the order of a sorted matrix; its places take registers, too.
        few_rows: eight simdgroups share a row of a matrix with fewer rows, which would leave the GPU idle otherwise.
        long_rows: for one row of x, four simdgroups share a row of at least this length.
        least_columns: how many columns each simdgroup that shares a row gets. With more simdgroups, some would get
            none, and only hold registers.
        qvm_lanes: lanes of qvm that lie side by side along a row of the matrix, where they read at least 4 bytes each.
            Fewer lanes give more threadgroups.
        qvm_rows: the most rows of x in a pass of qvm, by the layout of the matrix.
        qvm_shape: by BM: the columns of a lane and the rows of the matrix that it takes at once; a format's own where
            there is none.
        blocks: blocks of qmm by the layout in which it reads the matrix, smallest first.
        qmm_threadgroups: threadgroups that run at the same time, by rows of x in a block.
        expert_blocks: blocks of gather_qmm, as those of qmm; empty where it does not exist.
        straddling_gradients: whether gather_qmm multiplies by transposed matrices whose codes straddle words.
        expert_pairs: from this many pairs of a row of x and an expert on, for each expert, gather_qmm is taken.
        permute_whole_rows: from this many rows of x on, a threadgroup permutes a whole row; fewer would leave the
            GPU idle.
        permute_kilobytes: sizes of threadgroup memory for a row of x, smallest first.
        matrix_units_few: whether qmv_mma exists.
    """

    routes: tuple[Route, ...]
    qmv_shape: Mapping[int, tuple[int, int]]
    qmv_permuted_shape: Mapping[int, tuple[int, int]]
    few_rows: int
    long_rows: int
    least_columns: int
    qvm_lanes: int
    qvm_rows: Mapping[str, int]
    qvm_shape: Mapping[int, tuple[int, int]]
    blocks: Mapping[str, tuple[Block, ...]]
    qmm_threadgroups: Mapping[int, int]
    expert_blocks: Mapping[str, tuple[Block, ...]]
    straddling_gradients: bool
    expert_pairs: int
    permute_whole_rows: int
    permute_kilobytes: tuple[int, ...]
    matrix_units_few: bool


def _route(M: int, name: str, when: str, reason: str) -> Route:
    return Route(M, name, frozenset(condition for condition in when.split(", ") if condition), reason)


def _blocks(unit: str, *shapes: tuple[int, int]) -> tuple[Block, ...]:
    return tuple(Block(bm, tk, unit) for bm, tk in shapes)


# Conditions of a route; dispatch.py decides when they hold:
#   long rows         a row of the matrix or of its transpose has more than 2^25 numbers
#   float32 x         x is float32, which matrix units do not multiply
#   looked up         the inputs of a lane of qmm may lie in several groups, so each looks up its group
#   unsorted          act-order, and the inputs cannot be sorted by group
_GEMV = _route(1, "gemv", "", "one pass over the matrix multiplies 8 rows of x, with float32's error")
_LONG_ROWS = _route(
    2, "dequantize_then_gemm", "long rows", "kernels for few rows of x count all their numbers in 32 bits"
)
# No checkpoint that we know has such a g_idx: groups of different sizes, or of sizes that 32 does not divide.
_UNSORTED = _route(1, "dequantize_then_gemm", "unsorted", "no product looks up a group for each input")
_FIRST = (
    _UNSORTED,
    _LONG_ROWS,
    _route(129, "dequantize_then_gemm", "float32 x", "MLX's product may use TF32, so only where it saves much time"),
    _route(1, "gemv", "float32 x", "matrix units multiply two-byte types"),
)
_LOOKED_UP = (
    _route(257, "dequantize_then_gemm", "looked up", "the fused kernel looks up each scale again for every block"),
    _route(17, "fused_gemm", "looked up", "matrix units, though each scale is looked up"),
)
_UNMEASURED = (
    *_FIRST,
    *_LOOKED_UP,
    _route(385, "dequantize_then_gemm", "", "not measured on this device: MLX's product should win by then"),
    _route(17, "fused_gemm", "", "matrix units: the matrix is read once a block and decoded in registers"),
    _GEMV,
)
# A buffer of float16 weights costs 4 bytes of memory traffic a weight. An M5 (153 GB/s, 4.2 TFLOP/s without neural
# accelerators, 2.2 to 3.7 times as many with them) has that time back after 75 to 100 rows.
_M5_ROUTES = (
    *_FIRST,
    _route(96, "dequantize_then_gemm", "", "computed, not measured: MLX's product uses the neural accelerators"),
    *_UNMEASURED[len(_FIRST) :],
)
_HOPPER_ROUTES = (
    *_FIRST,
    *_LOOKED_UP,
    _route(256, "dequantize_then_gemm", "", "measured: 0.53 to 0.98 of the fused kernel's time from here on"),
    _route(17, "fused_gemm", "", "measured: the matrix is read once a block and decoded in registers"),
    _GEMV,
)

# 32 KB of threadgroup memory on Metal, 99 KB of shared memory or more on CUDA.
_METAL_BLOCKS = _blocks("simdgroup", (32, 16), (64, 16))
_CUDA_BLOCKS = _blocks("mma", (32, 32), (64, 32), (128, 32))
_HOPPER_NK = _blocks("wgmma", (32, 32), (128, 32))
_HOPPER_KN = _blocks("wgmma", (32, 16), (64, 16), (128, 32))
_EXPERTS = ((32, 16), (64, 16), (128, 16))
_CUDA_EXPERTS, _HOPPER_EXPERTS = _blocks("mma", *_EXPERTS), _blocks("wgmma", *_EXPERTS)

METAL = Tuning(
    routes=_UNMEASURED,
    qmv_shape={1: (4, 32), 2: (4, 32), 4: (2, 32), 8: (2, 32)},
    # By Mesa's compiler, 32 columns of 4 rows of x spill.
    qmv_permuted_shape={1: (4, 32), 2: (4, 32), 4: (2, 16), 8: (2, 16)},
    few_rows=2048,
    long_rows=4096,
    # 32 lanes with 32 columns each.
    least_columns=1024,
    qvm_lanes=16,
    # By Mesa's compiler, 8 rows of x spill where lanes take 8 columns. Gradients need as many.
    qvm_rows={"KN": 8, "NK": 4},
    qvm_shape={8: (4, 8)},
    blocks={"NK": _METAL_BLOCKS, "KN": _METAL_BLOCKS},
    # Not measured: by their memory, two run on a core, and 32 cores are between an M4's 10 and an Ultra's 80.
    qmm_threadgroups={32: 64, 64: 64},
    # A block of 64 rows, whose places have to be kept, would have more than the registers.
    expert_blocks={"NK": _METAL_BLOCKS[:1], "KN": _METAL_BLOCKS[:1]},
    # By Mesa's compiler they spill.
    straddling_gradients=False,
    expert_pairs=2,
    permute_whole_rows=64,
    permute_kilobytes=(8, 16, 28),
    matrix_units_few=False,
)

# Its neural accelerators multiply for MLX's own product, and not for simdgroup matrices.
M5 = replace(METAL, routes=_M5_ROUTES)

CUDA = Tuning(
    routes=_UNMEASURED,
    qmv_shape={1: (4, 32), 2: (2, 32), 4: (2, 16), 8: (2, 8)},
    qmv_permuted_shape={1: (4, 32), 2: (2, 32), 4: (2, 16), 8: (2, 8)},
    few_rows=2048,
    long_rows=4096,
    # Measured with eight simdgroups whatever a row's length.
    least_columns=1,
    # A sector of L2 has 32 bytes.
    qvm_lanes=8,
    qvm_rows={"KN": 8, "NK": 8},
    qvm_shape={4: (8, 8), 8: (8, 1)},
    blocks={"NK": _CUDA_BLOCKS, "KN": _CUDA_BLOCKS},
    qmm_threadgroups={32: 264, 64: 264, 128: 132},
    expert_blocks={"NK": _CUDA_EXPERTS, "KN": _CUDA_EXPERTS},
    straddling_gradients=True,
    expert_pairs=2,
    permute_whole_rows=64,
    # 48 KB, and 99 since sm_80. From 28 on, a multiprocessor of an H100 holds 7, 5, 4, 3 and 2 such threadgroups.
    permute_kilobytes=(8, 16, 28, 44, 56, 75, 99),
    matrix_units_few=True,
)

# wgmma is for a compiler that is told sm_90a, as MLX's is.
HOPPER = replace(
    CUDA,
    routes=_HOPPER_ROUTES,
    blocks={"NK": _HOPPER_NK, "KN": _HOPPER_KN},
    expert_blocks={"NK": _HOPPER_EXPERTS, "KN": _HOPPER_EXPERTS},
)

# CUDA devices before sm_80 lack mma.sync of the shapes that are used, and asynchronous copies.
OLD_CUDA = replace(
    CUDA,
    routes=(
        _UNSORTED,
        _LONG_ROWS,
        _route(129, "dequantize_then_gemm", "", "the kernels for matrix units need sm_80"),
        _GEMV,
    ),
    permute_kilobytes=(8, 16, 28, 44),
    expert_blocks={"NK": (), "KN": ()},
    matrix_units_few=False,
)


def tuning(device: Device) -> Tuning:
    """The column of a device."""
    if device.platform == "metal":
        return M5 if device.generation >= 17 else METAL
    if device.generation < 80:
        return OLD_CUDA
    return HOPPER if device.generation == 90 else CUDA
