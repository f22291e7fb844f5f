"""A layer's torch tensors as the matrix that kernels take. The tensors stay where they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ... import checks
from ...act_order import groups_of
from ...encoded import EncodedMatrix
from ...errors import FormatError
from ...fast_divmod import grouping
from ...registry import FAMILIES, formats, gguf_format
from ...zero_points import ZERO_POINTS, zero_params
from ..arguments import FLOATS, float_name, integer
from .launch import aligned


def awq(qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group_size: int) -> EncodedMatrix:
    """As `AWQWeight`."""
    qweight, scales, qzeros = _words("qweight", qweight), _scales("scales", scales), _words("qzeros", qzeros)
    inputs, words = qweight.shape
    size = checks.group_size(group_size, inputs)
    groups = -(-inputs // size)
    why = f"(in {inputs}, out {words * 8}, group_size {group_size})"
    checks.shape("scales", scales, (groups, words * 8), why)
    checks.shape("qzeros", qzeros, (groups, words), why)
    arrays = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    return _matrix("awq4", arrays, inputs, words * 8, scales, grouping(size, groups))


def gptq(
    qweight: torch.Tensor,
    scales: torch.Tensor,
    qzeros: torch.Tensor,
    g_idx: torch.Tensor | None,
    group_size: int,
    zero_points: str,
    bits: int,
) -> EncodedMatrix:
    """As `GPTQWeight`."""
    checks.one_of("bits", bits, FAMILIES["gptq"].bits)
    checks.one_of("zero_points", zero_points, ZERO_POINTS)
    qweight, scales = _words("qweight", qweight), _scales("scales", scales)
    words, outputs = qweight.shape
    if words * 32 % bits:
        raise FormatError(f"qweight: found {words} rows, expected a multiple of {bits} (32 codes of {bits} bits)")
    inputs = words * 32 // bits
    if outputs * bits % 32:
        whole = 32 if bits == 3 else 32 // bits
        raise FormatError(f"qweight: found {outputs} outputs, expected a multiple of {whole}")
    size = checks.group_size(group_size, inputs)
    groups = -(-inputs // size)
    why = f"(in {inputs}, out {outputs}, group_size {group_size}, {bits} bits)"
    if g_idx is not None:
        groups = len(scales)  # with act-order, the scales say how many there are
    checks.shape("scales", scales, (groups, outputs), why)
    if qzeros.numel() == 0:
        qzeros, zero_points = _middle(bits, groups, outputs, qweight.device), "v2"
    qzeros = _words("qzeros", qzeros)
    checks.shape("qzeros", qzeros, (groups, outputs * bits // 32), why)
    index = None if g_idx is None else _group_index("g_idx", g_idx, inputs, groups, size)
    arrays = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": index}
    params = {**grouping(size, groups), **zero_params(zero_points, bits)}
    return _matrix(f"gptq{bits}", arrays, inputs, outputs, scales, params)


def compressed_tensors(
    weight_packed: torch.Tensor,
    weight_scale: torch.Tensor,
    weight_zero_point: torch.Tensor | None,
    weight_g_idx: torch.Tensor | None,
    out_features: int,
    in_features: int,
    group_size: int,
    bits: int,
) -> EncodedMatrix:
    """As `CompressedTensorsWeight`."""
    checks.one_of("bits", bits, FAMILIES["compressed_tensors"].bits)
    codes, scales = _words("weight_packed", weight_packed), _scales("weight_scale", weight_scale)
    outputs, inputs = _extents(out_features=out_features, in_features=in_features)
    why = f"(out {outputs}, in {inputs}, group_size {group_size}, {bits} bits)"
    checks.shape("weight_packed", codes, (outputs, -(-inputs * bits // 32)), why)
    size = checks.group_size(group_size, inputs)
    groups = -(-inputs // size)
    index = None
    # Some exporters write -1 throughout when there is no act-order.
    if weight_g_idx is not None and weight_g_idx.numel() and bool((weight_g_idx != -1).any()):
        groups = scales.shape[1]
        index = _group_index("weight_g_idx", weight_g_idx, inputs, groups, size)
    checks.shape("weight_scale", scales, (outputs, groups), why)
    if index is None and groups > 1 and size % 32:
        # Kernels without g_idx assume that 32 inputs share a group.
        index = (torch.arange(inputs, device=codes.device) // size).to(torch.int32)
    zeros = None
    if weight_zero_point is not None:
        zeros = _words("weight_zero_point", weight_zero_point)
        checks.shape("weight_zero_point", zeros, (-(-outputs * bits // 32), groups), why)
    arrays = {"codes": codes, "scales": scales, "zeros": zeros, "g_idx": index}
    params = {**grouping(size, groups), "has_zeros": int(zeros is not None), "groups_per_row": groups}
    return _matrix(f"ct{bits}", arrays, outputs, inputs, scales, params)


def gguf(blocks: torch.Tensor, quant_type: int, out_features: int, in_features: int) -> EncodedMatrix:
    """As `GGUFWeight`, of a matrix."""
    form = gguf_format(integer("quant_type", quant_type))
    if form is None:
        known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
        raise FormatError(f"quant_type: found {quant_type!r}, expected one of {known}")
    if blocks.dtype != torch.uint8:
        raise FormatError(f"blocks: found {blocks.dtype}, expected uint8 (the file's bytes)")
    rows, columns = _extents(out_features=out_features, in_features=in_features)
    if columns % form.weights:
        raise FormatError(f"in_features: found {columns}, expected a multiple of {form.weights} ({form.title})")
    size = rows * (columns // form.weights) * form.bytes
    if blocks.numel() != size:
        raise FormatError(f"blocks: found {blocks.numel()} bytes, expected {size} for {(rows, columns)} {form.title}")
    params = {"blocks_per_row": columns // form.weights}
    return EncodedMatrix({"blocks": aligned(blocks.detach())}, form, rows, columns, loader_params=params)


def _matrix(
    name: str,
    arrays: Mapping[str, torch.Tensor | None],
    rows: int,
    columns: int,
    scales: torch.Tensor,
    params: dict[str, int],
) -> EncodedMatrix:
    _extents(rows=rows, columns=columns)
    has_g_idx = arrays.get("g_idx") is not None
    return EncodedMatrix(arrays, formats()[name], rows, columns, FLOATS[scales.dtype], params, has_g_idx)


def _words(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Words of packed codes: int32, or uint32 read as int32."""
    if tensor.dtype not in (torch.int32, torch.uint32):
        raise FormatError(f"{name}: found {tensor.dtype}, expected int32")
    checks.rank(name, tensor, 2)
    return aligned(tensor.detach().view(torch.int32))


def _scales(name: str, tensor: torch.Tensor) -> torch.Tensor:
    float_name(name, tensor.dtype)
    checks.rank(name, tensor, 2)
    return aligned(tensor.detach())


def _group_index(name: str, tensor: torch.Tensor, inputs: int, groups: int, size: int) -> torch.Tensor | None:
    """g_idx, checked, with vLLM's argsort(g_idx) undone; None if it is the same as input // size."""
    if tensor.dtype not in (torch.int32, torch.int64, torch.uint32):
        raise FormatError(f"{name}: found {tensor.dtype}, expected int32")
    checks.shape(name, tensor, (inputs,), "(a group for each input)")
    # The one wait, when the weight is made.
    index = groups_of(name, tensor.detach().cpu().numpy(), groups, size)
    return None if index is None else torch.from_numpy(index).to(tensor.device)


def _middle(bits: int, groups: int, outputs: int, device: torch.device) -> torch.Tensor:
    """Zero points of 2**(bits - 1), packed."""
    fields = np.arange(bits) == bits - 1
    row = np.packbits(np.tile(fields, outputs), bitorder="little").view(np.int32)
    return torch.from_numpy(np.tile(row, (groups, 1))).to(device)


def _extents(**lengths: int) -> tuple[int, ...]:
    for name, length in lengths.items():
        checks.extent(name, integer(name, length))
    return tuple(lengths.values())
