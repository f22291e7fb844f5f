"""The kernels under `metal/`, and what a launch of each needs besides a matrix."""

from __future__ import annotations

from dataclasses import dataclass

THREADS = 256  # of a threadgroup, for every kernel
BLOCK_OUTPUTS = 128  # outputs of a threadgroup of qmm
PERMUTE_CHUNK = 16384  # columns of a threadgroup of permute_columns


@dataclass(frozen=True)
class KernelSpec:
    """A kernel file and what it is compiled for.

    Every kernel is called the same way, by threadgroups of `THREADS`:
    `name<format, T, template ...>(loader, inputs ..., out, params, scratch, threadgroup index, thread index)`,
    without format and loader where it needs no matrix, and without `scratch` where it needs none.

    Attributes:
        name: of the function and the file.
        inputs: arrays besides the matrix's.
        template: numbers that it is compiled for.
        scratch: floats of threadgroup memory.
        folder: of the file below `metal/`.
        unit: the matrix unit that it needs of a platform: "qmm", "half2" or "".
        lut_in_shared: whether a format's table is copied to threadgroup memory first, on a platform that gains by it.
        resident: threadgroups that a processor must have registers for; 0 leaves that to the compiler.
        needs_matrix: whether it reads a matrix.
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


DEQUANTIZE = KernelSpec("dequantize")
GATHER_ROWS = KernelSpec("gather_rows", ("ids",))
GATHER_COLUMNS = KernelSpec("gather_columns", ("ids",))
SPLIT_K_REDUCE = KernelSpec("split_k_reduce", ("parts",), needs_matrix=False)


def qmv(bm: int, simdgroups: int, bn: int, values: int) -> KernelSpec:
    """x @ W.T for a stored W and up to BM rows of x.

    Args:
        bm: 1, 2, 4 or 8.
        simdgroups: simdgroups that share rows of W: 1, 4 or 8.
        bn: rows of W that a simdgroup multiplies at once.
        values: the longest run of weights of a lane.
    """
    return KernelSpec("qmv", ("x",), (bm, simdgroups, bn, values), 8 * bn * bm, lut_in_shared=True)


def qvm(bm: int) -> KernelSpec:
    """x @ W for a stored W and up to BM rows of x: 1, 2, 4 or 8."""
    return KernelSpec("qvm", ("x",), (bm,), 8 * THREADS)


def qmv_mma(bm: int, bn: int, tk: int) -> KernelSpec:
    """A linear layer's product with up to 8 rows of x by matrix units.

    Args:
        bm: 1 or 8.
        bn: outputs that four lanes share.
        tk: inputs of each of them.
    """
    template = (bm, bn, tk)
    return KernelSpec("qmv_mma", ("x",), template, 4 * 16 * bn, "cuda", "half2", lut_in_shared=True, resident=2)


def qmm(kn: bool, bm: int, tk: int) -> KernelSpec:
    """A product with many rows of x, packed by `pack_activations`: blocks of BM rows and 128 outputs.

    Args:
        kn: whether rows of the stored matrix are the product's inputs.
        bm: rows of x of a block.
        tk: inputs of a lane; four lanes share an output.
    """
    # Two-byte elements: x twice, barriers, and 512 for each of 8 simdgroups to exchange weights.
    elements = 2 * bm * 4 * tk + 64 + 8 * 512
    return KernelSpec("qmm", ("x",), (int(kn), bm, tk), elements // 2, unit="qmm", lut_in_shared=True)


def pack_activations(bm: int, tk: int) -> KernelSpec:
    """Puts x in the order in which `qmm` reads it."""
    return KernelSpec("pack_activations", ("x",), (bm, tk), unit="qmm", needs_matrix=False)


def permute_columns(kilobytes: int = 0) -> KernelSpec:
    """Puts the columns of x in another order, from threadgroup memory of that size, or without."""
    return KernelSpec("permute_columns", ("x", "perm"), scratch=256 * kilobytes, needs_matrix=False)
