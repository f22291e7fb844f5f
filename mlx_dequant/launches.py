"""The launches of each kernel: grid, block shape and split-K. `dispatch.py` decides which launches run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import gcd

from . import kernels
from .encoded import EncodedMatrix, LaunchParams, Region
from .errors import FormatError
from .fast_divmod import fast_divmod
from .kernel_source import has_view
from .kernels import BLOCK_OUTPUTS, PERMUTE_CHUNK, THREADS, KernelSpec
from .registry import FAMILIES, Family, Format
from .tuning import EXACT_ROWS, PASS_ROWS, Device, Tuning, tuning

MAX_THREADS = 2**31 - 1  # of a grid: MLX counts no further


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, by threadgroups of `THREADS`.

    Attributes:
        params: the launch parameters.
        threadgroups: threadgroups in the grid, which has one dimension.
        shape: shape of the output.
        dtype: type of the output.
        operand: the matrix's array that comes after the launch's input: "perm", "inv_perm" or "".
    """

    spec: KernelSpec
    params: LaunchParams
    threadgroups: int
    shape: tuple[int, ...]
    dtype: str
    operand: str = ""

    @property
    def threads(self) -> int:
        """Threads of the grid.

        Raises:
            ValueError: there are more than a grid can have.
        """
        threads = self.threadgroups * THREADS
        if threads > MAX_THREADS:
            raise ValueError(f"{self.spec.name}: found {threads} threads, expected at most {MAX_THREADS}")
        return threads


def dequantize(matrix: EncodedMatrix, dtype: str, region: Region) -> list[Launch]:
    """Launches that dequantize the rows of a region in turn: more than one where a grid has too few threads."""
    rows = matrix.family.traits["rows_per_thread"]
    across = -(-region.columns // (8 * THREADS))
    multiplier, shift = fast_divmod(across)
    limit = MAX_THREADS // THREADS // across * rows
    launches: list[Launch] = []
    for first, end in pairwise([*range(region.first_row, region.end_row, limit), region.end_row]):
        strip = Region(first, end, region.first_column, region.end_column)
        params = matrix.params(strip, tiles_multiplier=multiplier, tiles_shift=shift)
        threadgroups = -(-strip.rows // rows) * across
        launches.append(Launch(kernels.DEQUANTIZE, params, threadgroups, (strip.rows, strip.columns), dtype))
    return launches


def gather(matrix: EncodedMatrix, M: int, dtype: str, operation: str) -> Launch:
    if operation == "gather_rows":
        spec, length, threads = kernels.GATHER_ROWS, matrix.columns, M * -(-matrix.columns // 8)
    else:
        spec, length, threads = kernels.GATHER_COLUMNS, matrix.rows, M * matrix.rows
    return Launch(spec, matrix.params(M=M), -(-threads // THREADS), (M, length), dtype)


def few_rows(device: Device, matrix: EncodedMatrix, M: int, dtype: str, transpose: bool) -> tuple[Launch, ...]:
    """A product with few rows of x: x @ W.T for the stored matrix W (`transpose`), or x @ W.

    A linear layer's product reads x in the order of a matrix that was sorted by group.
    """
    forward = _is_forward(matrix, transpose)
    tk = mma_inputs(device, matrix, M, dtype) if forward else 0
    permuted = permuted_side(matrix, transpose) if forward else ""
    if tk:
        spec, threadgroups = _qmv_mma(matrix, M, tk, permuted)
    else:
        spec, threadgroups = (_qmv if transpose else _qvm)(device, matrix, M, permuted)
    outputs = matrix.rows if transpose else matrix.columns
    return (Launch(spec, matrix.params(M=M), threadgroups, (M, outputs), dtype),)


def _is_forward(matrix: EncodedMatrix, transpose: bool) -> bool:
    """Whether a product is a linear layer's, not that of its gradient."""
    return transpose == (matrix.layout == "NK")


def permuted_side(matrix: EncodedMatrix, transpose: bool) -> str:
    """What a product with a sorted matrix permutes: "inputs", "outputs" or ""."""
    return "" if matrix.perm is None else "inputs" if _is_forward(matrix, transpose) else "outputs"


def _qmv(device: Device, matrix: EncodedMatrix, M: int, permuted: str) -> tuple[KernelSpec, int]:
    """x @ W.T: each row of the stored matrix gives one element of the result."""
    column = tuning(device)
    bm = _pass_rows(M)
    shape = column.qmv_permuted_shape if permuted else column.qmv_shape
    bn, values = shape[min(bm, PASS_ROWS[-1])]
    simdgroups = _simdgroups(column, M, matrix.rows, matrix.columns)
    tiles = -(-matrix.rows * simdgroups // (8 * bn))
    return kernels.qmv(bm, simdgroups, bn, values, permuted), tiles * -(-M // PASS_ROWS[-1])


def _simdgroups(column: Tuning, M: int, rows: int, length: int) -> int:
    """Simdgroups of qmv that share rows of the matrix."""
    wanted = 8 if rows < column.few_rows else 4 if M == 1 and length >= column.long_rows else 1
    with_columns = -(-length // column.least_columns)
    return next(count for count in shared_by(M) if count >= min(wanted, with_columns))


def shared_by(M: int) -> tuple[int, ...]:
    """How many simdgroups may share rows of the matrix in a pass over M rows of x."""
    return (1, 4, 8) if M == 1 else (1, 8)


def _qvm(device: Device, matrix: EncodedMatrix, M: int, permuted: str) -> tuple[KernelSpec, int]:
    """x @ W: the rows of the stored matrix are added up."""
    column = tuning(device)
    rows = column.qvm_rows[matrix.layout]
    bm, passes = (_pass_rows(M), 1) if rows >= M else (ANY_ROWS + rows, -(-M // rows))
    spec = _qvm_spec(column, matrix.family, bm, permuted)
    return spec, -(-matrix.columns // (column.qvm_lanes * spec.template[2])) * passes


def _qvm_spec(column: Tuning, family: Family, bm: int, permuted: str = "") -> KernelSpec:
    shape = column.qvm_shape.get((bm - 1) % ANY_ROWS + 1, _qvm_shape(family))
    return kernels.qvm(bm, column.qvm_lanes, *shape, permuted)


def _qvm_shape(family: Family) -> tuple[int, int]:
    """Columns of a lane and rows of W that it takes at once, for one row of x."""
    return family.traits["qvm_columns"], family.traits["qvm_rows"]


def _straddles(form: Format) -> bool:
    """Whether codes straddle words."""
    return form.bits > 0 and 32 % form.bits > 0


def _has_gather_qmm(column: Tuning, form: Format, kn: bool) -> bool:
    """Whether gather_qmm multiplies with stacks of a format whose stored rows are inputs (`kn`), or outputs."""
    gradient = kn != (FAMILIES[form.family].layout == "KN")
    return column.straddling_gradients or not (gradient and _straddles(form))


def gather_few(device: Device, matrix: EncodedMatrix, M: int, k: int, dtype: str, transpose: bool) -> Launch:
    """Products of M rows of x with k matrices of a stack each: x @ W.T for the stored W (`transpose`), or x @ W."""
    column, pairs, permuted = tuning(device), M * k, permuted_side(matrix, transpose)
    one = replace(matrix, rows=matrix.rows // matrix.experts, experts=0)
    if transpose:
        bn, values = column.qmv_shape[1]
        simdgroups = _simdgroups(column, 1, pairs * one.rows, one.columns)
        spec, tiles = kernels.gather_qmv(simdgroups, bn, values, permuted), -(-one.rows * simdgroups // (8 * bn))
    else:
        spec = kernels.gather_qvm(column.qvm_lanes, *_qvm_shape(matrix.family), permuted)
        tiles = -(-one.columns // (column.qvm_lanes * spec.template[1]))
    params = replace(one.params(M=pairs), experts=matrix.experts, choices=k, **expert_strides(matrix))
    return Launch(spec, params, pairs * tiles, (pairs, one.rows if transpose else one.columns), dtype)


def gather_many(device: Device, matrix: EncodedMatrix, M: int, k: int, dtype: str, transpose: bool) -> Launch | None:
    """The same product by matrix units, for ids that are sorted; None where `gather_few` is better or they cannot.

    Where the stack's inputs are in another order than x's, each pair has to have a row of x of its own, in that order.
    """
    column, pairs = tuning(device), M * k
    blocks = column.expert_blocks["NK" if transpose else "KN"]
    if not blocks or not _has_gather_qmm(column, matrix.format, not transpose):
        return None
    if dtype == "float32" or M <= EXACT_ROWS or pairs < column.expert_pairs * matrix.experts:
        return None
    # Some experts have more pairs than others.
    block = next((block for block in blocks if 2 * block.bm * matrix.experts >= 3 * pairs), blocks[-1])
    one = replace(matrix, rows=matrix.rows // matrix.experts, experts=0)
    outputs = one.rows if transpose else one.columns
    across = -(-outputs // BLOCK_OUTPUTS)
    # No expert may be missing, and each may have a tile that is not full. Ids may count from both ends.
    tiles = (pairs - 1) // block.bm + 2 * matrix.experts + 2
    permuted = permuted_side(matrix, transpose)
    choices, permuted = (1, "") if permuted == "inputs" else (k, permuted)
    params = replace(
        one.params(M=pairs), experts=matrix.experts, choices=choices, across=across, **expert_strides(matrix)
    )
    spec = kernels.gather_qmm(not transpose, *block.shape, permuted=permuted)
    return Launch(spec, params, tiles * across, (pairs, outputs), dtype)


MAX_STRIDE = 2**32 - 1
EXPERT_BYTES = 16  # an expert's arrays begin at multiples of this many bytes, as a matrix's own do


def expert_strides(matrix: EncodedMatrix) -> dict[str, int]:
    """Elements from an expert to the next in each array of a stack, rounded up to `EXPERT_BYTES`; 0 if it is absent.

    Raises:
        FormatError: there are more than shaders count in 32 bits: of GGUF's bytes an expert's, of any other array all.
    """
    most = MAX_STRIDE if matrix.format.family == "gguf" else MAX_STRIDE // matrix.experts
    strides: dict[str, int] = {}
    names = [name for name, _ in matrix.family.arrays]
    for at, (name, array) in enumerate(zip(names, matrix.kernel_arrays(), strict=True)):
        if array is not None:
            whole = EXPERT_BYTES // array.dtype.size
            stride = -(-array.size // matrix.experts // whole) * whole
            if stride > most:
                raise FormatError(f"{name}: found {stride} elements an expert, expected at most {most}")
            strides[f"expert_stride_{at}"] = stride
    return strides


def mma_inputs(device: Device, matrix: EncodedMatrix, M: int, dtype: str) -> int:
    """Inputs that a lane of qmv_mma takes: 32 or 8, or 0 where qmv_mma cannot run or is slower.

    The inputs of four lanes divide a row of x and share a scale, and codes are exact in x's type.
    """
    form = matrix.format
    if not tuning(device).matrix_units_few or not has_view(form) or dtype == "float32":
        return 0
    grouped = matrix.group_size > 0
    exact_block = matrix.group_size if grouped else form.traits.get("exact_block", 0)
    exact_bits = 8 if grouped else form.traits.get("exact_bits", 0)
    # What a lane reads at once must lie inside the matrix.
    inside = matrix.columns % 8 == 0 if matrix.layout == "KN" else matrix.rows >= 8
    exact = exact_block and (dtype == "float16" or exact_bits <= 8) and (not grouped or matrix.scale_dtype == "float16")
    if not (exact and inside):
        return 0
    # Converting codes to bfloat16 costs more, so it pays from one row of x later on.
    thresholds = _mma_from(form)
    from_rows = {
        tk: thresholds[tk] + (dtype == "bfloat16") for tk in (32, 8) if gcd(exact_block, matrix.K) % (4 * tk) == 0
    }
    return next((tk for tk, first in from_rows.items() if first <= M), 0)


def _mma_from(form: Format) -> dict[int, int]:
    """By inputs of a lane: the rows of x from which qmv_mma is faster. There, eight rows take as long as one."""
    family = FAMILIES[form.family]
    if form.code_bits <= 2 and form.traits["scale_block"] == 32:
        return {32: 1, 8: 3}  # for one row of x already, decoding takes longer than reading
    if not form.bits:
        return {32: 3, 8: 3}
    if family.layout == "KN":
        return {32: 1 if family.traits["qvm_columns"] < 8 else 2, 8: 2}
    return {32: 2, 8: 3}


def _mma_outputs(form: Format) -> int:
    """Outputs that four lanes of qmv_mma share; fewer where each output has a zero point to look up."""
    return 4 if form.bits and FAMILIES[form.family].layout == "NK" else 8


def _qmv_mma(matrix: EncodedMatrix, M: int, tk: int, permuted: str) -> tuple[KernelSpec, int]:
    bn = _mma_outputs(matrix.format)
    return kernels.qmv_mma(1 if M == 1 else 8, bn, tk, permuted), -(-matrix.N // (8 * bn)) * -(-M // 8)


def many_rows(device: Device, matrix: EncodedMatrix, M: int, dtype: str, transpose: bool) -> tuple[Launch, ...]:
    """A product with any number of rows of x, by matrix units; `transpose` as in `few_rows`."""
    column = tuning(device)
    inputs, outputs = (matrix.columns, matrix.rows) if transpose else (matrix.rows, matrix.columns)
    blocks = column.blocks["NK" if transpose else "KN"]
    block = next((block for block in blocks if block.bm >= M), blocks[-1])
    down = -(-M // block.bm)
    steps = -(-inputs // block.bk)
    # x, filled up to whole blocks.
    shape = (down * block.bm, steps * block.bk)
    pack = Launch(
        kernels.pack_activations(*block.shape),
        LaunchParams(columns=inputs, M=M),
        -(-shape[0] * shape[1] // (8 * THREADS)),
        shape,
        dtype,
    )
    tiles = down * -(-outputs // BLOCK_OUTPUTS)
    split_k = _splits(tiles, inputs // 256, column.qmm_threadgroups[block.bm])
    split_k = -(-steps // -(-steps // split_k)) if steps else 1  # every threadgroup has a step
    spec = kernels.qmm(not transpose, *block.shape)
    return (pack, *_split(spec, matrix, tiles, split_k, (M, outputs), dtype))


@lru_cache(maxsize=4096)
def _splits(tiles: int, limit: int, threadgroups: int) -> int:
    """The split_k, at most `limit`, that leaves the least of a GPU idle that runs `threadgroups` at the same time."""
    if tiles >= threadgroups:
        return 1
    counts = range(1, max(1, min(limit, max(4, threadgroups // tiles))) + 1)
    return min(counts, key=lambda splits: -(-tiles * splits // threadgroups) / splits)


def _split(
    spec: KernelSpec, matrix: EncodedMatrix, tiles: int, split_k: int, shape: tuple[int, int], dtype: str
) -> tuple[Launch, ...]:
    """A launch that splits K over threadgroups, and one that adds up their results."""
    params = matrix.params(M=shape[0], split_k=split_k)
    if split_k == 1:
        return (Launch(spec, params, tiles, shape, dtype),)
    reduce_params = LaunchParams(columns=shape[1], M=shape[0], split_k=split_k)
    return (
        Launch(spec, params, tiles * split_k, (split_k, *shape), "float32"),
        Launch(kernels.SPLIT_K_REDUCE, reduce_params, -(-shape[0] * shape[1] // THREADS), shape, dtype),
    )


def permutation(device: Device, M: int, columns: int, dtype: str, operand: str = "perm") -> Launch:
    """Permutes the columns of [M, columns], through threadgroup memory where rows fit in it and there are many."""
    column = tuning(device)
    size = columns * (4 if dtype == "float32" else 2)
    kilobytes = next((limit for limit in column.permute_kilobytes if size <= 1024 * limit), 0)
    whole_rows = column.permute_whole_rows <= M and kilobytes
    threadgroups = M if whole_rows else M * -(-columns // PERMUTE_CHUNK)
    spec = kernels.permute_columns(kilobytes if whole_rows else 0)
    return Launch(spec, LaunchParams(columns=columns, M=M), threadgroups, (M, columns), dtype, operand)


def expert_permutation(experts: int, M: int, k: int, columns: int, dtype: str) -> Launch:
    """Rows of x [M, columns] for k experts each, or of x [M * k, columns] with k = 1, in the orders of their inputs."""
    params = LaunchParams(columns=columns, M=M * k, experts=experts, choices=k)
    return Launch(kernels.PERMUTE_FOR_EXPERTS, params, M * k * -(-columns // PERMUTE_CHUNK), (M * k, columns), dtype)


ANY_ROWS = 8  # and the rows of a pass together are the BM of kernels that take any number of rows of x


def _pass_rows(M: int) -> int:
    return next((count for count in PASS_ROWS if count >= M), ANY_ROWS + PASS_ROWS[-1])
