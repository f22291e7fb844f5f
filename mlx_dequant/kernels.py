"""The kernels under `metal/`, and what each needs besides a matrix."""

from __future__ import annotations

from dataclasses import dataclass

THREADS = 256  # in a threadgroup, for every kernel
BLOCK_OUTPUTS = 128  # outputs of a threadgroup of qmm
PERMUTE_CHUNK = 16384  # columns of a threadgroup of permute_columns

# Files under `metal/` with the code for what multiplies matrices.
UNITS = {
    "simdgroup": "platform/metal_mma.h",
    "mma": "cuda/qmm_mma.h",
    "wgmma": "cuda/qmm_wgmma.h",
    "half2": "cuda/half2_mma.h",  # of qmv_mma
}


@dataclass(frozen=True)
class KernelSpec:
    """A kernel file and its template arguments.

    Every kernel has the same signature and runs in threadgroups of `THREADS`:
    `name<format, T, template ...>(loader, inputs ..., out, params, scratch, threadgroup index, thread index)`,
    without format and loader if it reads no matrix, and without `scratch` if it needs none.

    Attributes:
        name: name of the function and of the file.
        inputs: arrays that it takes besides the matrix's.
        template: integer template arguments.
        scratch: floats of threadgroup memory.
        folder: folder of the file below `metal/`.
        unit: the matrix code that it needs, a key of `UNITS`, or "".
        lut_in_shared: whether a format's lookup table is copied to threadgroup memory first, where that is faster.
        resident: threadgroups that a multiprocessor of CUDA must have registers for; 0 leaves that to the compiler.
        needs_matrix: whether it reads a matrix.
        permuted: for a matrix that was sorted by group: "inputs" where it reads x in the order of the matrix's inputs,
            "outputs" where it stores its results in that order; "" for any other.
        stacked: whether it reads a stack of matrices, by experts that the input `ids` names.
        tile: pairs of a row of x and an expert in a threadgroup of a stacked kernel whose ids are sorted; 0 where
            a threadgroup has one, and ids are in any order.
    """

    name: str
    inputs: tuple[str, ...] = ()
    template: tuple[int, ...] = ()
    scratch: int = 0
    folder: str = "kernels"
    unit: str = ""
    lut_in_shared: bool = False
    resident: int = 0
    needs_matrix: bool = True
    permuted: str = ""
    stacked: bool = False
    tile: int = 0

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies a matrix by x. Such a kernel looks up no group in g_idx."""
        return self.needs_matrix and "x" in self.inputs


DEQUANTIZE = KernelSpec("dequantize")
GATHER_ROWS = KernelSpec("gather_rows", ("ids",))
GATHER_COLUMNS = KernelSpec("gather_columns", ("ids",))
SPLIT_K_REDUCE = KernelSpec("split_k_reduce", ("parts",), needs_matrix=False)


def qmv(bm: int, simdgroups: int, bn: int, values: int, permuted: str = "") -> KernelSpec:
    """x @ W.T for a stored W, BM rows of x at a time.

    Args:
        bm: 1, 2, 4 or 8; 16 for any number of rows.
        simdgroups: simdgroups that share rows of W: 1, 4 or 8.
        bn: rows of W that a simdgroup multiplies at once.
        values: the most columns that a lane takes at once.
        permuted: as in `KernelSpec`.
    """
    template = (bm, simdgroups, bn, values)
    return KernelSpec("qmv", ("x",), template, 8 * bn * min(bm, 8), lut_in_shared=True, permuted=permuted)


def qvm(bm: int, lanes: int, values: int, chunk: int, permuted: str = "") -> KernelSpec:
    """x @ W for a stored W, BM rows of x at a time.

    Args:
        bm: 1, 2, 4 or 8; 8 + n for any number of rows, n in a pass.
        lanes: lanes of a threadgroup that lie side by side along a row of W; the others share its rows.
        values: columns of a lane.
        chunk: rows of W that a lane takes at once.
        permuted: as in `KernelSpec`.
    """
    return KernelSpec("qvm", ("x",), (bm, lanes, values, chunk), 8 * THREADS, permuted=permuted)


def gather_qmv(simdgroups: int, bn: int, values: int, permuted: str = "") -> KernelSpec:
    """x @ W.T for a stored W an expert, one row of x for each pair of a row and an expert; arguments as for `qmv`."""
    template = (simdgroups, bn, values)
    return KernelSpec("gather_qmv", ("x", "ids"), template, 8 * bn, lut_in_shared=True, permuted=permuted, stacked=True)


def gather_qvm(lanes: int, values: int, chunk: int, permuted: str = "") -> KernelSpec:
    """x @ W for a stored W an expert, one row of x for each pair of a row and an expert; arguments as for `qvm`."""
    template = (lanes, values, chunk)
    return KernelSpec("gather_qvm", ("x", "ids"), template, 8 * THREADS, permuted=permuted, stacked=True)


# How qmv and qvm take x, by platform: up to so many rows in the first way, more in the second. `x_first` reads x before
# the weights, and each decoded code multiplies all its rows; `x_in_turn` decodes 32 codes or more, which multiply the
# rows of x one after the other. `by_chunks` is qvm's x_first; `by_rows` decodes a row of W for all rows of x.
_LOOPS = {
    ("metal", "qmv"): (2, "x_first", "x_in_turn"),
    ("cuda", "qmv"): (1, "x_first", "x_in_turn"),
    ("metal", "qvm"): (2, "by_chunks", "x_in_turn"),
    ("cuda", "qvm"): (2, "by_chunks", "by_rows"),
}


# How qmm reads a matrix: by whether the stored rows are the product's inputs, and whether its layout is KN.
_LOADS = {
    (False, False): "rows_as_outputs",
    (False, True): "rows_as_outputs",
    (True, True): "columns_as_outputs",
    (True, False): "exchanged_columns",
}


def loads(spec: KernelSpec, layout: str) -> str:
    """The struct of qmm_loads.metal that is a kernel's template argument LOADS; "" for other kernels."""
    if not spec.needs_matrix or not spec.name.endswith("qmm"):
        return ""
    return _LOADS[bool(spec.template[0]), layout == "KN"]


def pairs(spec: KernelSpec, bits: int) -> str:
    """The struct of `metal/cuda/views` that is a kernel's template argument PAIRS; "" for other kernels.

    Args:
        bits: of a code; 0 for GGUF.
    """
    if spec.name != "qmv_mma":
        return ""
    tk = spec.template[2]
    return f"word_pairs<{bits}>" if bits and 32 % bits == 0 and tk * bits % 32 == 0 else "neighbour_pairs"


def loop(platform: str, spec: KernelSpec, scale_block: int) -> str:
    """The struct of qmv.metal or qvm.metal that is a kernel's template argument LOOP; "" for other kernels.

    Args:
        scale_block: codes that share a scale; `x_first` needs 8.
    """
    kind = spec.name.removeprefix("gather_")
    if (platform, kind) not in _LOOPS:
        return ""
    bm = 1 if spec.stacked else spec.template[0]
    rows = bm - 8 if kind == "qvm" and bm > 8 else bm  # in a pass
    most, few, many = _LOOPS[platform, kind]
    return few if rows <= most and not (few == "x_first" and scale_block < 8) else many


def qmv_mma(bm: int, bn: int, tk: int, permuted: str = "") -> KernelSpec:
    """A linear layer's product with few rows of x, 8 at a time, by matrix units.

    Args:
        bm: 1 or 8.
        bn: outputs that four lanes share.
        tk: inputs that each lane takes at once.
        permuted: as in `KernelSpec`.
    """
    template, scratch = (bm, bn, tk), 8 * 8 * bn
    return KernelSpec("qmv_mma", ("x",), template, scratch, "cuda", "half2", True, resident=2, permuted=permuted)


def qmm(kn: bool, bm: int, tk: int, unit: str) -> KernelSpec:
    """A product with many rows of x, packed by `pack_activations`: blocks of BM rows and 128 outputs.

    Args:
        kn: whether the stored rows are the product's inputs.
        bm: rows of x in a block.
        tk: inputs of a lane in a step; four lanes share an output.
        unit: what multiplies, a key of `UNITS`.
    """
    scratch = _block_scratch(bm, tk, unit)
    return KernelSpec("qmm", ("x",), (int(kn), bm, tk), scratch, unit=unit, lut_in_shared=True)


def _block_scratch(bm: int, tk: int, unit: str) -> int:
    # Two-byte elements. On Metal: a tile of x, and the weights of 8 simdgroups. On CUDA: two tiles of x, the barriers,
    # and 512 for each of 8 simdgroups to exchange weights.
    tile = bm * 4 * tk
    return (tile + BLOCK_OUTPUTS * 4 * tk if unit == "simdgroup" else 2 * tile + 64 + 8 * 512) // 2


def gather_qmm(kn: bool, bm: int, tk: int, unit: str, permuted: str = "") -> KernelSpec:
    """A product with a stack, for many pairs of a row of x and an expert, sorted by expert.

    Args:
        kn: this and the next three as for `qmm`.
        permuted: as in `KernelSpec`.
    """
    return KernelSpec(
        "gather_qmm",
        ("x", "ids", "order"),
        (int(kn), bm, tk),
        _block_scratch(bm, tk, unit),
        unit=unit,
        lut_in_shared=True,
        resident=2 if bm <= 64 else 0,
        permuted=permuted,
        stacked=True,
        tile=bm,
    )


def pack_activations(bm: int, tk: int, unit: str) -> KernelSpec:
    """Packs x in the order in which `qmm` reads it; arguments as for `qmm`."""
    return KernelSpec("pack_activations", ("x",), (bm, tk), unit=unit, needs_matrix=False)


def permute_columns(kilobytes: int = 0) -> KernelSpec:
    """Permutes the columns of x, through threadgroup memory of that size, or from device memory if 0."""
    return KernelSpec("permute_columns", ("x", "perm"), scratch=256 * kilobytes, needs_matrix=False)


PERMUTE_FOR_EXPERTS = KernelSpec("permute_for_experts", ("x", "perm", "ids"), needs_matrix=False)
