"""Every kernel that a platform may launch for a format: what the checks of texts compile.

`test_dispatch.py` finds each plan's kernels among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlx_dequant import kernels, launches
from mlx_dequant.kernel_source import has_view
from mlx_dequant.kernels import KernelSpec
from mlx_dequant.registry import FAMILIES, Format
from mlx_dequant.tuning import CUDA, HOPPER, M5, METAL, OLD_CUDA, PASS_ROWS

COLUMNS = {"metal": (METAL, M5), "cuda": (CUDA, HOPPER, OLD_CUDA)}


def every_spec(platform: str, form: Format) -> set[KernelSpec]:
    """Every kernel that a platform may launch for a format."""
    specs = {kernels.DEQUANTIZE, kernels.GATHER_ROWS, kernels.GATHER_COLUMNS, kernels.SPLIT_K_REDUCE}
    family = FAMILIES[form.family]
    has_g_idx = "g_idx" in dict(family.arrays)
    if has_g_idx:
        specs.add(kernels.PERMUTE_FOR_EXPERTS)
    for column in COLUMNS[platform]:
        specs |= _qmv_specs(column.qmv_shape)
        if has_g_idx and family.layout == "NK":
            specs |= _qmv_specs(column.qmv_permuted_shape, "inputs")
        most = column.qvm_rows[family.layout]
        rows = [count for count in PASS_ROWS if count <= most]
        specs |= {launches._qvm_spec(column, family, bm) for bm in (*rows, launches.ANY_ROWS + most)}
        bn, values = column.qmv_shape[1]
        specs |= {kernels.gather_qmv(shared, bn, values) for shared in launches.shared_by(1)}
        specs.add(kernels.gather_qvm(column.qvm_lanes, *launches._qvm_shape(family)))
        for layout, blocks in column.expert_blocks.items():
            if launches._has_gather_qmm(column, form, layout == "KN"):
                specs |= {kernels.gather_qmm(layout == "KN", *block.shape) for block in blocks}
        specs |= {kernels.permute_columns(size) for size in (0, *column.permute_kilobytes)}
        for layout, blocks in column.blocks.items():
            specs |= {kernels.qmm(layout == "KN", *block.shape) for block in blocks}
            specs |= {kernels.pack_activations(*block.shape) for block in blocks}
        if column.matrix_units_few and has_view(form):
            specs |= _mma_specs(form)
    if not has_g_idx:
        return specs
    return specs | {replace(spec, permuted=order) for spec in specs if (order := _order(spec, family.layout))}


def _qmv_specs(shape: Mapping[int, tuple[int, int]], permuted: str = "") -> set[KernelSpec]:
    most = PASS_ROWS[-1]
    return {
        kernels.qmv(bm, shared, bn, values, permuted)
        for bm, (bn, values) in [*shape.items(), (launches.ANY_ROWS + most, shape[most])]
        for shared in launches.shared_by(bm)
    }


def _order(spec: KernelSpec, layout: str) -> str:
    """What a kernel but qmv permutes for a sorted matrix; "" where it is launched for none."""
    if not spec.multiplies or spec.name in ("qmv", "qmm"):
        return ""
    kn = spec.name.endswith("qvm") or (spec.name == "gather_qmm" and spec.template[0] == 1)
    if spec.name == "qmv_mma" or kn == (layout == "KN"):
        return "" if spec.name == "gather_qmm" else "inputs"
    return "outputs" if spec.stacked else ""


def _mma_specs(form: Format) -> set[KernelSpec]:
    block = form.traits.get("exact_block", 0)
    inputs = (32, 8) if form.bits else [tk for tk in (32, 8) if block % (4 * tk) == 0 and block][:1]
    rows = {tk: (1, 8) if launches._mma_from(form)[tk] == 1 else (8,) for tk in inputs}
    return {kernels.qmv_mma(bm, launches._mma_outputs(form), tk) for tk in inputs for bm in rows[tk]}
