"""A GGUF file's tensors, by mlx-lm's names and in the form that mlx-lm's model expects."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import GGUFFile
from ..weights import GGUFWeight
from ..weights.cut import Cut, Packing
from . import gguf_joined
from .build import Weight
from .gguf_architectures import Architecture
from .gguf_config import architecture
from .gguf_rope import TENSORS

# One of a list of norms: they are the rows of one tensor.
ROW = re.compile(r"\.norms\.(\d+)(?=\.weight$)")
# mlx-lm's names of an architecture's stacks of experts; gguf-py knows transformers' names.
STACK = re.compile(r"\w+\.switch_mlp\.")


# The cut of a parameter of a name, None for one that is read whole.
Cuts = Callable[[str], Cut | None]


def weights(file: GGUFFile, config: Mapping[str, Any], model: Any, cuts: Cuts | None = None) -> dict[str, Weight]:
    """The model's weights by the names of its parameters, or the parts that `cuts` says.

    Raises:
        FormatError: the file lacks a weight, or has tensors that the model does not know.
    """
    parameters = dict(tree_flatten(model.parameters()))
    config = config.get("text_config") or config
    if config["tie_word_embeddings"]:
        parameters.pop("lm_head.weight", None)
    found = dict(tensors(file, config, parameters, cuts))
    return model.sanitize(found) if hasattr(model, "sanitize") else found


def units(file: GGUFFile, config: Mapping[str, Any], module: str, columns: int) -> tuple[int, int]:
    """By multiples of how many rows and columns a module's matrix [..., out, columns] can be cut."""
    name = _name(f"{module}.weight", _names(file, config))
    info = file.tensors.get(next(iter(gguf_joined.experts(file, name)), name))
    return Packing(info.format).units(columns) if info and info.format else (1, 1)


def _names(file: GGUFFile, config: Mapping[str, Any]) -> Any:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    name = file.metadata["general.architecture"]
    known = next(number for number, found in MODEL_ARCH_NAMES.items() if found == name)
    return get_tensor_name_map(known, config["num_hidden_layers"])


def tensors(
    file: GGUFFile, config: Mapping[str, Any], parameters: Iterable[str], cuts: Cuts | None = None
) -> Iterator[tuple[str, Weight]]:
    """The weights of parameters of these names, read one by one. Names are transformers'.

    Raises:
        FormatError: the file lacks a weight, or has more tensors; the latter after the last weight.
    """
    name, form, names = file.metadata["general.architecture"], architecture(file), _names(file, config)
    vision = {tensor for tensor in file.tensors if tensor.startswith(("v.", "mm."))}
    if vision:
        warnings.warn(f"{file.path.name}: runs as a text model, without {len(vision)} vision tensors", stacklevel=4)
    read = gguf_joined.Tensors(file, config, file.tensors.keys() - TENSORS - vision - _further_layers(file, config))
    for parameter in parameters:
        cut = cuts(parameter) if cuts else None
        own = form.tensor(parameter, read, config) if form.tensor else None
        if own is not None and cut is not None:
            raise FormatError(f"{file.path.name}: {parameter}: parts of it are not supported for {name}")
        if own is None:
            own = _converted(parameter, read(_name(parameter, names), cut), form, config, cut)
        yield parameter, own
    if read.unused:
        raise FormatError(f"{file.path.name}: tensor {min(read.unused)!r}: found, expected none such in a {name} model")


def _name(parameter: str, names: Any) -> str:
    """The name of a parameter's tensor."""
    known = STACK.sub("mlp.experts.", ROW.sub("", parameter.replace("language_model.", "")))
    known = known.replace("score_correction_bias", "score_correction.bias")
    name: str = names.get_name(known, (".weight", ".bias")) or known
    return f"{name}.weight" if name.endswith("attn_sinks") else name


def _further_layers(file: GGUFFile, config: Mapping[str, Any]) -> set[str]:
    """Tensors of layers that predict further tokens, which no text needs."""
    count = file.metadata[f"{file.metadata['general.architecture']}.block_count"]
    prefixes = tuple(f"blk.{layer}." for layer in range(config["num_hidden_layers"], count))
    return {name for name in file.tensors if name.startswith(prefixes)}


def _converted(
    parameter: str, weight: GGUFWeight, form: Architecture, config: Mapping[str, Any], cut: Cut | None
) -> Weight:
    """A weight without the changes that the file's converter made."""
    module = parameter.split(".")[-2]
    if number := ROW.search(parameter):
        return weight.dequantize(mx.float32)[int(number[1])]
    if form.interleaved and module in ("q_proj", "k_proj"):
        heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
        return _halves(weight, heads if cut is None else heads * weight.shape[0] // cut.length)
    if form.norm_offset and module.endswith("norm"):
        return weight.dequantize(mx.float32) - form.norm_offset
    if parameter.endswith(("conv.weight", "conv1d.weight")):  # a filter a channel
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
