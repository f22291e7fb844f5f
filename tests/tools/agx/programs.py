"""The programs: every one of ours that Metal may launch for a format, and MLX's own `qmv`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from specs import every_spec

from mlx_dequant import dtypes
from mlx_dequant.backends.gpu.launch import kernel
from mlx_dequant.kernels import THREADS, KernelSpec
from mlx_dequant.registry import FAMILIES, Format, formats

from .compiler import AgxError


@dataclass(frozen=True)
class Program:
    """A program and what its row of the table says.

    Attributes:
        format: the registry's name, "mlx-4" for MLX's own, "" for a kernel that reads no matrix.
        M: rows of x that one pass multiplies, 16 for any number, 8 in a pass, or fewer of qvm; 0 for a kernel that
            multiplies none.
        weights: weights that a thread handles in an iteration of the loop over K; 0 without such a loop.
    """

    kernel: str
    format: str
    has_g_idx: bool
    M: int
    template: tuple[int, ...]
    dtype: str
    weights: int
    text: str
    threadgroup: tuple[int, int, int] = (THREADS, 1, 1)

    @property
    def name(self) -> str:
        template = "_".join(map(str, self.template))
        g_idx = "_g_idx" if self.has_g_idx else ""
        return f"{self.kernel.replace(' ', '_')}-{self.format or 'any'}{g_idx}-{template}-{self.dtype}"


_INPUTS = {"ids": mx.int32, "order": mx.uint32, "perm": mx.int32, "parts": mx.float32}
_ELEMENTS = {"uint8_t": mx.uint8, "int": mx.int32}


def title(spec: KernelSpec) -> str:
    """A kernel's name; "qmv permuted" multiplies with a weight with g_idx that was sorted by group."""
    return spec.name + (" permuted" if spec.permuted else "")


def rows(spec: KernelSpec) -> int:
    """Rows of x in one pass of a kernel; 16 for one that takes any number."""
    if spec.stacked and not spec.tile:
        return 1
    at = {"qmv": 0, "qvm": 0, "qmm": 1, "gather_qmm": 1}.get(spec.name)
    found = 0 if at is None else spec.template[at]
    return 16 if spec.name == "qvm" and found > 8 else found


def weights(spec: KernelSpec, form: Format | None) -> int:
    """Weights of a thread in an iteration over K, from the template's values, as the kernel's file has it.

    Said too large it is refused, since each takes a multiply-add; said too small, the counts are too high.
    """
    kernel = spec.name.removeprefix("gather_")
    if form is None or kernel not in ("qmv", "qvm", "qmm"):
        return 0
    traits = FAMILIES[form.family].traits
    if kernel == "qmv":
        *_, bn, values = spec.template
        return bn * (8 if traits["layout_kn"] or form.traits.get("scale_block", 8) < 8 else values)
    if kernel == "qvm":
        *_, columns, chunk = spec.template
        return columns * chunk
    return 2 * spec.template[2]  # two outputs


def ours(
    names: list[str], dtype: str = "float16", kernels: list[str] | None = None, M: int | None = None
) -> list[Program]:
    """Our programs for formats, those without a matrix once."""
    chosen: dict[tuple[Format | None, KernelSpec, bool], None] = {}
    for name in names:
        form = formats()[name]
        g_idx = any(array == "g_idx" for array, _ in FAMILIES[form.family].arrays)
        for spec in sorted(
            every_spec("metal", form), key=lambda spec: (spec.name, spec.template, spec.scratch, spec.permuted)
        ):
            if (kernels and spec.name not in kernels and title(spec) not in kernels) or (
                M is not None and rows(spec) != M
            ):
                continue
            if spec.needs_matrix:
                orders = (False, True) if g_idx and not spec.multiplies else (False,)
                chosen.update({(form, spec, order): None for order in orders})
            else:
                chosen[None, spec, False] = None
    texts = _printed(list(chosen), dtype)
    return [
        Program(
            kernel=title(spec),
            format=form.name if form else "",
            has_g_idx=order or bool(spec.permuted),
            M=rows(spec),
            template=spec.template or ((spec.scratch,) if spec.scratch else ()),
            dtype=dtype,
            weights=weights(spec, form),
            text=text,
        )
        for (form, spec, order), text in zip(chosen, texts, strict=True)
    ]


def _printed(chosen: list[tuple[Format | None, KernelSpec, bool]], dtype: str) -> list[str]:
    """What MLX hands to Metal's compiler: header, signature and body. It prints them on any machine."""

    def launch() -> mx.array:
        for form, spec, order in chosen:
            types = (dtype, dtype, order, dtype) if form else (dtype,)
            arrays = FAMILIES[form.family].arrays if form else ()
            inputs = [mx.zeros(64, _ELEMENTS.get(element, dtypes.of(dtype))) for _, element in arrays]
            inputs += [mx.zeros(64, mx.uint32)] * bool(form and form.table)
            inputs += [mx.zeros(64, _INPUTS.get(name, dtypes.of(dtype))) for name in spec.inputs]
            call = kernel("metal", form, spec, *types)
            call(
                inputs=[*inputs, mx.zeros(64, mx.uint32)],
                output_shapes=[(64,)],
                output_dtypes=[dtypes.of(dtype)],
                grid=(THREADS, 1, 1),
                threadgroup=(THREADS, 1, 1),
                verbose=True,
            )
        return mx.zeros(1)

    kernel.cache_clear()
    with tempfile.TemporaryFile() as printed:
        kept = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            mx.export_function(lambda _: None, launch)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            kernel.cache_clear()
        printed.seek(0)
        return re.findall(r"Generated source code for `\w+`:\n```\n(.*?)\n```\n", printed.read().decode(), re.DOTALL)


MLX_BITS = (2, 3, 4, 5, 6, 8)
_MLX_FUNCTIONS = ("load_vector", "qdot", "qmv_fast_impl")


def mlx_qmv(bits: tuple[int, ...] = MLX_BITS) -> Iterator[Program]:
    """MLX's own product with one row of x, out of the installed headers."""
    path = Path(mx.__file__).parent / "include/mlx/backend/metal/kernels/quantized.h"
    header = path.read_text()
    constants = header[header.index("#define MLX_MTL_CONST") : header.index("template <")]
    helpers = [_function(header, name) for name in ("get_pack_factor", "get_bytes_per_pack")]
    functions = [_function(header, name) for name in _MLX_FUNCTIONS]
    # Attributes of parameters, which only kernels have here.
    text = re.sub(r" \[\[\w+\]\]", "", constants + "\n".join([*helpers, *functions]))
    for width in bits:
        values = 16 if width < 6 else 8  # of a lane, in four rows
        program = text + _mlx_kernel(width)
        yield Program("qmv", f"mlx-{width}", False, 1, (64, width), "float16", 4 * values, program, (32, 2, 1))


def _function(header: str, name: str) -> str:
    """A function template of a C++ header, from `template` to its last brace."""
    found = re.search(rf"\b{name}\(", header)
    if found is None:
        raise AgxError(f"{name}: not in MLX's quantized.h of this version")
    start = header.rindex("\n\n", 0, found.start())
    depth, end = 0, header.index("{", found.start())
    while True:
        depth += {"{": 1, "}": -1}.get(header[end], 0)
        end += 1
        if depth == 0:
            return header[start:end]


def _mlx_kernel(bits: int) -> str:
    return f"""
[[kernel]] void qmv_fast(const device uint32_t* w [[buffer(0)]], const device half* scales [[buffer(1)]],
    const device half* biases [[buffer(2)]], const device half* x [[buffer(3)]], device half* y [[buffer(4)]],
    const constant int* sizes [[buffer(5)]], uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {{
  qmv_fast_impl<half, 64, {bits}>(w, scales, biases, x, y, sizes[0], sizes[1], group, simdgroup, lane);
}}
"""
