"""vLLM's GGUF layers: one matrix, or several (q, k, v; gate, up) of types of their own, padded to one width.

vLLM sets what the layer is as attributes of its parameters: `qweight.shard_id` with `qweight.shard_offset_map` (first
row, end row, bytes of a row, by shard), and `qweight_type.weight_type` or `qweight_type.shard_weight_type`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import FormatError
from ..registry import gguf_format
from . import arguments, views
from .operators import operator

LINEAR = operator("gguf", "linear")
# Outputs of each matrix: one that was released has no shape.
_outputs: WeakIdKeyDictionary = WeakIdKeyDictionary()


def linear(x: torch.Tensor, layer: Any, bias: torch.Tensor | None) -> torch.Tensor:
    """x through a layer, each shard of it packed; the results beside each other."""
    qweight = arguments.together(qweight=layer.qweight)["qweight"]
    arguments.check_product(x, bias, qweight)
    parts = [_product(x, shard, kind) for shard, kind in zip(shards(qweight), _kinds(layer), strict=True)]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    arguments.check_bias(bias, out.shape[-1])
    return out if bias is None else out + bias.to(out.dtype)


def shards(qweight: torch.Tensor) -> list[torch.Tensor]:
    """The rows of each shard, without padding: views of the parameter."""
    order = _order(qweight)
    if not order:
        return [qweight]
    places: Any = getattr(qweight, "shard_offset_map", {})
    missing = [shard for shard in order if shard not in places]
    if missing:
        raise FormatError(f"qweight.shard_offset_map: found {list(places)}, expected {missing[0]!r} too")

    def cut() -> list[torch.Tensor]:
        return [qweight.data[start:end, :width].data for start, end, width in map(places.get, order)]

    return views.cut(qweight, tuple(map(tuple, places.items())), cut)


def _order(qweight: torch.Tensor) -> list[Any]:
    """The shards as the layer's outputs are: files may have others first."""
    held = list(getattr(qweight, "shard_id", None) or ())
    return [shard for shard in "qkv" if shard in held] if "q" in held else sorted(held)


def _kinds(layer: Any) -> list[Any]:
    order = _order(layer.qweight)
    if not order:
        return [layer.qweight_type.weight_type]
    held = layer.qweight_type.shard_weight_type
    missing = [shard for shard in order if shard not in held]
    if missing:
        raise FormatError(f"qweight_type.shard_weight_type: found {list(held)}, expected {missing[0]!r} too")
    return [held[shard] for shard in order]


def _product(x: torch.Tensor, blocks: torch.Tensor, kind: Any) -> torch.Tensor:
    if blocks.dtype in arguments.FLOATS:  # vLLM keeps F16 and the like as numbers
        arguments.check_last_axis("x", x, blocks.shape[-1])
        return torch.nn.functional.linear(x, blocks.to(x.dtype))
    form = gguf_format(arguments.integer("qweight_type", kind))
    if form is None:
        raise FormatError(f"qweight_type: found {kind}, expected GGUF's number of a type")
    if blocks.numel():
        _outputs[blocks] = blocks.shape[0]
    return LINEAR(x, blocks, form.ggml_type, _outputs.get(blocks, 0), x.shape[-1], None)
