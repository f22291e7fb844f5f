"""Which kernels run, for a device, a matrix, the rows of x and their type: a pure function of those.

`tuning.py` has the tables. A plan is asked once and launched as it is; it names no array and knows no array library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from . import kernels, tuning
from .encoded import EncodedMatrix, LaunchParams, Region
from .fast_divmod import fast_divmod
from .kernel_source import has_view
from .kernels import BLOCK_OUTPUTS, PERMUTE_CHUNK, THREADS, KernelSpec
from .registry import Format
from .tuning import PASS_ROWS, Device, Route
from .tuning import tuning as column_of

MAX_THREADS = 2**32 - 1  # of a grid: MLX counts no further
# Bytes of a dequantized part of a matrix, for MLX's own product: a layer of a usual model fits.
DENSE_BYTES = 512 << 20
# Rows of x up to which products keep the weights' own values; with more they round them to x's type, as dense layers do.
EXACT_ROWS = 16

# x @ W.T and x @ W for the stored matrix W.
MATMUL_T, MATMUL = "matmul_t", "matmul"
OPERATIONS = (MATMUL_T, MATMUL, "dequantize", "gather_rows", "gather_columns")


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, by threadgroups of `THREADS`.

    Attributes:
        reads_matrix: whether the matrix's arrays come first among its inputs.
        operand: the matrix's array that comes after the launch's input: "perm", "inv_perm" or "".
        params: as they are in the kernel.
        threadgroups: of the grid, which has one dimension.
        shape: of the output.
        dtype: of the output.
    """

    spec: KernelSpec
    params: LaunchParams
    threadgroups: int
    shape: tuple[int, ...]
    dtype: str
    operand: str = ""


@dataclass(frozen=True)
class Pass:
    """Rows first to end - 1 of x, and what is launched for them: each takes what the one before made."""

    first: int
    end: int
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class Plan:
    """How an operation runs.

    Attributes:
        route: "gemv", "fused_gemm", "dequantize_then_gemm", "dense", or the operation's name.
        reason: why, in a line.
        passes: over the rows of x; () where the product is MLX's own.
        before: on x, before it is split into passes.
        after: on the result.
        regions: of the matrix, dequantized one after the other ("dequantize_then_gemm").
    """

    route: str
    reason: str
    passes: tuple[Pass, ...] = ()
    before: Launch | None = None
    after: Launch | None = None
    regions: tuple[Region, ...] = ()


def plan(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    """The plan of an operation.

    Args:
        M: rows of x, or ids of a look-up; any number for "dequantize".
        dtype: "float32", "float16" or "bfloat16": of x, or of the result of a look-up or of "dequantize".
        operation: one of `OPERATIONS`.
    """
    if operation == "dequantize":
        launches = dequantize(matrix, dtype, matrix.whole)
        return Plan(operation, "", tuple(Pass(0, 0, (launch,)) for launch in launches))
    if operation in ("gather_rows", "gather_columns"):
        return Plan(operation, "", (Pass(0, M, (_gather(matrix, M, dtype, operation),)),))
    if operation not in (MATMUL_T, MATMUL):
        raise ValueError(f"operation: found {operation!r}, expected one of {', '.join(OPERATIONS)}")
    return _matmul(device, matrix, M, dtype, operation)


def dequantize(matrix: EncodedMatrix, dtype: str, region: Region) -> list[Launch]:
    """Launches that dequantize a region, row after row: more than one where a grid has too few threads."""
    rows = matrix.family.traits["rows_per_thread"]
    across = -(-region.columns // (8 * THREADS))
    multiplier, shift = fast_divmod(across)
    most = MAX_THREADS // THREADS // across * rows
    launches: list[Launch] = []
    for first, end in pairwise([*range(region.first_row, region.end_row, most), region.end_row]):
        part = Region(first, end, region.first_column, region.end_column)
        params = matrix.params(part, tiles_multiplier=multiplier, tiles_shift=shift)
        threadgroups = -(-part.rows // rows) * across
        launches.append(Launch(kernels.DEQUANTIZE, params, threadgroups, (part.rows, part.columns), dtype))
    return launches


def _gather(matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Launch:
    if operation == "gather_rows":
        spec, length, threads = kernels.GATHER_ROWS, matrix.columns, M * -(-matrix.columns // 8)
    else:
        spec, length, threads = kernels.GATHER_COLUMNS, matrix.rows, M * matrix.rows
    return Launch(spec, matrix.params(M=M), -(-threads // THREADS), (M, length), dtype)


def route(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> Route:
    """The row of the device's table that decides."""
    conditions = _conditions(matrix, dtype)
    return next(row for row in column_of(device).routes if M >= row.M and row.when <= conditions)


def _conditions(matrix: EncodedMatrix, dtype: str) -> frozenset[str]:
    looked_up = matrix.has_g_idx or (matrix.layout == "KN" and matrix.group_size % 32 != 0)
    facts = {
        "float32 x": dtype == "float32",
        "looked up": looked_up,
        "looked up by two": matrix.has_g_idx and matrix.layout == "KN",
        "float32 weights": matrix.format.stored == "float32",
    }
    return frozenset(name for name, holds in facts.items() if holds)


def _matmul(device: Device, matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Plan:
    row = route(device, matrix, M, dtype)
    transpose = operation == MATMUL_T
    forward = transpose == (matrix.layout == "NK")
    before = after = None
    if matrix.perm is not None:
        permute = permutation(device, M, matrix.K, dtype, "perm" if forward else "inv_perm")
        before, after = (permute, None) if forward else (None, permute)
    if row.name != "gemv" and matrix.format.stored == dtype:
        return Plan("dense", "the matrix holds x's type: MLX multiplies it as it is", (), before, after)
    if row.name == "dequantize_then_gemm":
        return Plan(row.name, row.reason, (), before, after, _regions(matrix, dtype, transpose))
    if row.name == "fused_gemm":
        passes = (Pass(0, M, _qmm(device, matrix, M, dtype, transpose)),)
        return Plan(row.name, row.reason, passes, before, after)
    step = PASS_ROWS[-1]
    passes = tuple(
        Pass(first, end, _few_rows(device, matrix, end - first, dtype, transpose, forward))
        for first, end in pairwise([*range(0, M, step), M])
    )
    return Plan(row.name, row.reason, passes, before, after)


def _few_rows(
    device: Device, matrix: EncodedMatrix, M: int, dtype: str, transpose: bool, forward: bool
) -> tuple[Launch, ...]:
    tk = mma_inputs(device, matrix, M, dtype) if forward else 0
    if tk:
        return _qmv_mma(device, matrix, M, dtype, tk)
    return _qmv(device, matrix, M, dtype) if transpose else _qvm(device, matrix, M, dtype)


def _qmv(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> tuple[Launch, ...]:
    """x @ W.T: each row of the stored matrix is a sum."""
    column = column_of(device)
    bm = _pass_rows(M)
    bn, values = column.qmv_shape[bm]
    simdgroups = 8 if matrix.rows < column.few_rows else 4 if M == 1 and matrix.columns >= column.long_rows else 1
    spec = kernels.qmv(bm, simdgroups, bn, values)
    return (Launch(spec, matrix.params(M=M), -(-matrix.rows * simdgroups // (8 * bn)), (M, matrix.rows), dtype),)


def _qvm(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> tuple[Launch, ...]:
    """x @ W: rows of the stored matrix are added up."""
    column = column_of(device)
    columns = matrix.family.traits["qvm_columns"] if M <= 2 else 8
    tiles = -(-matrix.columns // (4 * 32 * columns))
    held = column.qvm_threadgroups
    if M == 1 and matrix.layout == "KN":
        held = column.qvm_threadgroups_one_row[columns]
    split_k = max(1, min(-(-matrix.rows // 64), held // tiles))
    return _split(kernels.qvm(_pass_rows(M)), matrix, tiles, split_k, (M, matrix.columns), dtype)


def mma_inputs(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> int:
    """Inputs that a lane of qmv_mma takes: 32 or 8, or 0 where it cannot run or is slower.

    Four lanes' inputs have to share a scale, and codes have to be exact in x's type.
    """
    form = matrix.format
    if not column_of(device).matrix_units_few or matrix.has_g_idx or not has_view(form) or dtype == "float32":
        return 0
    grouped = matrix.family.has_groups or form.family == "awq"
    exact_block = matrix.group_size if grouped else form.traits.get("exact_block", 0)
    exact_bits = 8 if grouped else form.traits.get("exact_bits", 0)
    # What a lane reads at once has to be there, and aligned.
    whole = matrix.columns % 8 == 0 if matrix.layout == "KN" else matrix.rows >= 8
    aligned = not grouped or matrix.layout == "KN" or matrix.columns % 32 == 0
    exact = exact_block and (dtype == "float16" or exact_bits <= 8) and (not grouped or matrix.scale_dtype == "float16")
    if not (exact and whole and aligned):
        return 0
    # To make bfloat16 of codes costs more, so that begins a row of x later.
    least = _mma_from(matrix)
    return next(
        (tk for tk in (32, 8) if exact_block % (4 * tk) == 0 and least[tk] + (dtype == "bfloat16") <= M),
        0,
    )


def _mma_from(matrix: EncodedMatrix) -> dict[int, int]:
    """By inputs of a lane, the rows of x from which qmv_mma is faster: eight take as long as one there."""
    traits = matrix.family.traits
    if matrix.format.code_bits <= 2 and "lut_words" not in matrix.format.traits:
        return {32: 1, 8: 3}  # few bytes: decoding is what one row of x waits for
    if matrix.family.name == "gguf":
        return {32: 3, 8: 3}
    if matrix.layout == "KN":
        return {32: 1 if traits["qvm_columns"] < 8 else 2, 8: 2}
    return {32: 2, 8: 3}


def _qmv_mma(device: Device, matrix: EncodedMatrix, M: int, dtype: str, tk: int) -> tuple[Launch, ...]:
    bn = 4 if matrix.layout == "NK" and matrix.family.has_groups else 8
    tiles = -(-matrix.N // (16 * bn))
    split_k = _splits(tiles, matrix.K // (16 * tk), column_of(device).qvm_threadgroups)
    return _split(kernels.qmv_mma(1 if M == 1 else 8, bn, tk), matrix, tiles, split_k, (M, matrix.N), dtype)


def _qmm(device: Device, matrix: EncodedMatrix, M: int, dtype: str, transpose: bool) -> tuple[Launch, ...]:
    column = column_of(device)
    inputs, outputs = (matrix.columns, matrix.rows) if transpose else (matrix.rows, matrix.columns)
    blocks = column.blocks["NK" if transpose else "KN"]
    block = next((each for each in blocks if each.bm >= M), blocks[-1])
    down = -(-M // block.bm)
    steps = -(-inputs // block.bk)
    # Rounded up to whole blocks, in the order in which they are read.
    shape = (down * block.bm, steps * block.bk)
    packed = Launch(
        kernels.pack_activations(block.bm, block.tk),
        LaunchParams(columns=inputs, M=M),
        -(-shape[0] * shape[1] // (8 * THREADS)),
        shape,
        dtype,
    )
    tiles = down * -(-outputs // BLOCK_OUTPUTS)
    split_k = _splits(tiles, inputs // 256, column.qmm_threadgroups[block.bm])
    split_k = -(-steps // -(-steps // split_k)) if steps else 1  # none is left without a step
    spec = kernels.qmm(not transpose, block.bm, block.tk)
    return (packed, *_split(spec, matrix, tiles, split_k, (M, outputs), dtype))


@lru_cache(maxsize=4096)
def _splits(tiles: int, most: int, held: int) -> int:
    """Parts of the inputs, at most `most`, that leave the least of a GPU idle which holds `held` threadgroups."""
    if tiles >= held:
        return 1
    counts = range(1, max(1, min(most, max(4, held // tiles))) + 1)
    return min(counts, key=lambda splits: -(-tiles * splits // held) / splits)


def _split(
    spec: KernelSpec, matrix: EncodedMatrix, tiles: int, split_k: int, shape: tuple[int, int], dtype: str
) -> tuple[Launch, ...]:
    """A launch whose threadgroups share the inputs, and one that adds up what they made."""
    params = matrix.params(M=shape[0], split_k=split_k)
    if split_k == 1:
        return (Launch(spec, params, tiles, shape, dtype),)
    added = LaunchParams(columns=shape[1], M=shape[0], split_k=split_k)
    return (
        Launch(spec, params, tiles * split_k, (split_k, *shape), "float32"),
        Launch(kernels.SPLIT_K_REDUCE, added, -(-shape[0] * shape[1] // THREADS), shape, dtype),
    )


def permutation(device: Device, M: int, columns: int, dtype: str, operand: str = "perm") -> Launch:
    """Puts the columns of [M, columns] in another order: from threadgroup memory, where rows fit and are many."""
    column = column_of(device)
    size = columns * (4 if dtype == "float32" else 2)
    kilobytes = next((each for each in column.permute_kilobytes if size <= 1024 * each), 0)
    whole = column.permute_whole_rows <= M and kilobytes
    threadgroups = M if whole else M * -(-columns // PERMUTE_CHUNK)
    spec = kernels.permute_columns(kilobytes if whole else 0)
    return Launch(spec, LaunchParams(columns=columns, M=M), threadgroups, (M, columns), dtype, operand)


def _regions(matrix: EncodedMatrix, dtype: str, transpose: bool) -> tuple[Region, ...]:
    """Parts of the matrix by its product's outputs, of at most `DENSE_BYTES` each."""
    inputs, outputs = (matrix.columns, matrix.rows) if transpose else (matrix.rows, matrix.columns)
    most = DENSE_BYTES // max(inputs * (4 if dtype == "float32" else 2), 1)
    step = next((most // whole * whole for whole in (1024, 128, 32) if most >= whole), 32)
    edges = pairwise([*range(0, outputs, step), outputs])
    return tuple(Region(at, end, 0, inputs) if transpose else Region(0, inputs, at, end) for at, end in edges)


def _pass_rows(M: int) -> int:
    return next(count for count in PASS_ROWS if count >= M)


def every_spec(platform: str, form: Format) -> set[KernelSpec]:
    """All that a platform may launch for a format."""
    fixed = {kernels.DEQUANTIZE, kernels.GATHER_ROWS, kernels.GATHER_COLUMNS, kernels.SPLIT_K_REDUCE}
    found = fixed | tuning.all_specs(platform, mma=has_view(form))
    blocks = {spec.template[1:] for spec in found if spec.name == "qmm"}
    return found | {kernels.pack_activations(*block) for block in blocks}
