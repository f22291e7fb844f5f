"""The text of a Metal kernel as `torch.mps.compile_shader` takes it: a preamble and a signature of our own."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...kernel_source import TYPES, kernel_source
from ...kernels import KernelSpec
from ...registry import FAMILIES, Format

# What MLX puts before a kernel, as far as the shaders use it.
PREAMBLE = """#include <metal_stdlib>
using namespace metal;
typedef half float16_t;
typedef bfloat bfloat16_t;
"""

# Types of what kernels take besides a matrix's arrays. x has its own.
_INPUTS = {"ids": "int", "order": "uint", "perm": "int", "parts": "float"}


@cache
def function(
    form: Format | None,
    spec: KernelSpec,
    dtype: str,
    scale_dtype: str = "",
    has_g_idx: bool = False,
    input_dtype: str = "",
) -> tuple[str, str]:
    """The name of a kernel and its text; the arguments are those of `kernel_source`.

    It takes the matrix's arrays, its format's table if there is one, the spec's inputs, the launch parameters and the
    output, in this order.
    """
    source = kernel_source("metal", form, spec, dtype, scale_dtype, has_g_idx, input_dtype)
    arrays: tuple[tuple[str, Any], ...] = FAMILIES[form.family].arrays if form else ()
    buffers = [(TYPES[scale_dtype] if kind == "S" else kind, name) for name, kind in arrays]
    buffers += [("uint", "table")] * bool(form and form.table)
    buffers += [(_INPUTS.get(name) or TYPES[input_dtype or dtype], name) for name in spec.inputs]
    buffers.append(("uint", "params"))
    lines = [f"  const device {kind}* {name} [[buffer({at})]]," for at, (kind, name) in enumerate(buffers)]
    lines.append(f"  device {TYPES[dtype]}* out [[buffer({len(buffers)})]],")
    for index in ("threadgroup_position_in_grid", "thread_position_in_threadgroup"):
        lines.append(f"  uint3 {index} [[{index}]],")
    signature = "\n".join(lines).removesuffix(",")
    name = f"custom_kernel_{source.name}"  # as MLX calls it, so that profiles of both can be compared
    return name, f"{PREAMBLE}{source.header}\n[[kernel]] void {name}(\n{signature}) {{\n{source.body}}}\n"
