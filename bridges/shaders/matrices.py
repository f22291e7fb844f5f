"""A layer's torch tensors as the matrix that kernels take. The tensors stay where they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ... import checks, group_shapes
from ...act_order import groups_of
from ...encoded import EncodedMatrix
from ...errors import FormatError
from ...group_shapes import GroupShape
from ...registry import FAMILIES, formats, gguf_format
from ...zero_points import ZERO_POINTS, middle_words, zero_params
from ..arguments import FLOATS, float_name, integer
from .launch import aligned


def awq(qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group_size: int) -> EncodedMatrix:
    """As `AWQWeight`."""
    qweight, scales, qzeros = _words("qweight", qweight), _scales("scales", scales), _words("qzeros", qzeros)
    found = group_shapes.awq(qweight, scales, qzeros, group_size)
    arrays = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    return _matrix("awq4", arrays, found.inputs, found.outputs, scales, found.params)


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
    found = group_shapes.gptq(qweight, scales, qzeros, g_idx is not None, group_size, bits)
    if qzeros.numel() == 0:
        words = middle_words(bits, found.groups, found.outputs)
        qzeros, zero_points = torch.from_numpy(words).to(qweight.device), "v2"
    qzeros = _words("qzeros", qzeros)
    index = None if g_idx is None else _group_index("g_idx", g_idx, found)
    arrays = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": index}
    params = {**found.params, **zero_params(zero_points, bits)}
    return _matrix(f"gptq{bits}", arrays, found.inputs, found.outputs, scales, params)


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
    index = weight_g_idx
    if index is not None and group_shapes.is_unset(index, index.dtype in (torch.int32, torch.int64)):
        index = None
    zeros = None if weight_zero_point is None else _words("weight_zero_point", weight_zero_point)
    shape = (outputs, inputs)
    found = group_shapes.compressed_tensors(codes, scales, zeros, shape, index is not None, group_size, bits)
    if index is not None:
        index = _group_index("weight_g_idx", index, found)
    if index is None and found.needs_g_idx:
        index = (torch.arange(inputs, device=codes.device) // found.size).to(torch.int32)
    arrays = {"codes": codes, "scales": scales, "zeros": zeros, "g_idx": index}
    params = {**found.params, "has_zeros": int(zeros is not None), "groups_per_row": found.groups}
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
        raise FormatError(f"{name}: found {tensor.dtype}, expected int32 or uint32")
    checks.rank(name, tensor, 2)
    return aligned(tensor.detach().view(torch.int32))


def _scales(name: str, tensor: torch.Tensor) -> torch.Tensor:
    float_name(name, tensor.dtype)
    checks.rank(name, tensor, 2)
    return aligned(tensor.detach())


def _group_index(name: str, tensor: torch.Tensor, found: GroupShape) -> torch.Tensor | None:
    """g_idx, checked, with vLLM's argsort(g_idx) undone; None if it is the same as input // size."""
    if tensor.dtype not in (torch.int32, torch.int64, torch.uint32):
        raise FormatError(f"{name}: found {tensor.dtype}, expected int32, int64 or uint32")
    checks.shape(name, tensor, (found.inputs,), "(a group for each input)")
    # The one wait, when the weight is made.
    index = groups_of(name, tensor.detach().cpu().numpy(), found.groups, found.size)
    return None if index is None else torch.from_numpy(index).to(tensor.device)


def _extents(**lengths: int) -> tuple[int, ...]:
    for name, length in lengths.items():
        checks.extent(name, integer(name, length))
    return tuple(lengths.values())
