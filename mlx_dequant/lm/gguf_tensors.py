"""A GGUF file's tensors, by mlx-lm's names and in the form that mlx-lm's model expects."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import GGUFFile
from ..weights import GGUFWeight
from .build import Weight
from .gguf_architectures import Architecture
from .gguf_config import architecture
from .gguf_rope import TENSORS

# One of a list of norms: they are the rows of one tensor.
ROW = re.compile(r"\.norms\.(\d+)(?=\.weight$)")
# Layers that some files have joined, in the order of their rows.
JOINED = {"q_proj": "attn_qkv", "k_proj": "attn_qkv", "v_proj": "attn_qkv"}


def weights(file: GGUFFile, config: Mapping[str, Any], model: Any) -> dict[str, Weight]:
    """The model's weights by the names of its parameters.

    Raises:
        FormatError: the file lacks a weight, or has tensors that the model does not know.
    """
    parameters = dict(tree_flatten(model.parameters()))
    if config["tie_word_embeddings"]:
        parameters.pop("lm_head.weight", None)
    found = dict(tensors(file, config, parameters))
    return model.sanitize(found) if hasattr(model, "sanitize") else found


def tensors(file: GGUFFile, config: Mapping[str, Any], parameters: Iterable[str]) -> Iterator[tuple[str, Weight]]:
    """The weights of parameters of these names, read one by one. Names are transformers'.

    Raises:
        FormatError: the file lacks a weight, or has more tensors; the latter after the last weight.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    name, form = file.metadata["general.architecture"], architecture(file)
    known = next(number for number, found in MODEL_ARCH_NAMES.items() if found == name)
    names = get_tensor_name_map(known, config["num_hidden_layers"])
    vision = {tensor for tensor in file.tensors if tensor.startswith(("v.", "mm."))}
    if vision:
        warnings.warn(f"{file.path.name}: runs as a text model, without {len(vision)} vision tensors", stacklevel=4)
    unused = file.tensors.keys() - TENSORS - vision
    for parameter in parameters:
        whole = ROW.sub("", parameter)
        tensor = names.get_name(whole, (".weight", ".bias")) or whole
        rows = None
        joined = _joined(tensor, parameter)
        if tensor not in file.tensors and joined in file.tensors:
            tensor, rows = joined, _rows_of(parameter, config)
        if tensor not in file.tensors:
            raise FormatError(f"{file.path.name}: tensor {tensor!r}: not found")
        unused.discard(tensor)
        weight = file.weight(tensor)
        yield parameter, _converted(parameter, weight if rows is None else _rows(weight, rows), form, config)
    if unused:
        raise FormatError(f"{file.path.name}: tensor {min(unused)!r}: found, expected none such in a {name} model")


def _joined(tensor: str, parameter: str) -> str:
    """The tensor that some files have instead, of queries, keys and values."""
    layer, _, kind = tensor.rpartition(".")
    joined = JOINED.get(parameter.split(".")[-2])
    return f"{layer.rpartition('.')[0]}.{joined}.{kind}" if joined else tensor


def _rows_of(parameter: str, config: Mapping[str, Any]) -> slice:
    heads, shared, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    ends = [0, heads * head_dim, (heads + shared) * head_dim, (heads + 2 * shared) * head_dim]
    at = list(JOINED).index(parameter.split(".")[-2])
    return slice(ends[at], ends[at + 1])


def _rows(weight: GGUFWeight, rows: slice) -> GGUFWeight:
    """Some rows, still packed: a row consists of whole blocks."""
    if rows.stop > weight.shape[0]:
        raise FormatError(f"found {weight.shape[0]} rows of queries, keys and values, expected {rows.stop} or more")
    blocks = weight.arrays["blocks"]
    assert blocks is not None
    part = blocks.reshape(weight.shape[0], -1)[rows]
    return GGUFWeight(part if len(weight.shape) > 1 else part.reshape(-1), weight.format.title)


def _converted(parameter: str, weight: GGUFWeight, form: Architecture, config: Mapping[str, Any]) -> Weight:
    """A weight without the changes that the file's converter made."""
    module = parameter.split(".")[-2]
    if number := ROW.search(parameter):
        return weight.dequantize(mx.float32)[int(number[1])]
    if form.interleaved and module in ("q_proj", "k_proj"):
        heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
        return _halves(weight, heads)
    if form.norm_offset and module.endswith("norm"):
        return weight.dequantize(mx.float32) - form.norm_offset
    if parameter.endswith("conv.weight"):  # a filter a channel
        return weight.dequantize(mx.float32)[..., None]
    return weight


def _halves(weight: GGUFWeight, heads: int) -> GGUFWeight:
    """Puts the even rows of each head first, then the odd ones: mlx-lm rotates pairs half a head apart.

    A row consists of whole blocks, so rows of bytes can be moved.
    """
    blocks = weight.arrays["blocks"]
    assert blocks is not None
    rows = blocks.reshape(-1, blocks.size // weight.shape[0])
    if len(rows) % (2 * heads):
        raise FormatError(f"{len(rows)} rows of queries or keys, expected a multiple of {2 * heads} ({heads} heads)")
    halves = rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2)
    return weight.replace(blocks=halves.reshape(blocks.shape))
