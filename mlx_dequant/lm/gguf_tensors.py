"""A GGUF file's tensors, by mlx-lm's names and in the form that mlx-lm's model expects."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import GGUFFile
from ..weights import GGUFWeight
from .build import Weight
from .gguf_config import ARCHITECTURES, Architecture

ROPE = "rope_freqs.weight"
# mlx-lm's names of an architecture's stacks of experts; gguf-py knows transformers' names.
STACK = re.compile(r"\w+\.switch_mlp\.")


def weights(file: GGUFFile, config: Mapping[str, Any], model: Any) -> dict[str, Weight]:
    """The model's weights by the names of its parameters.

    Raises:
        FormatError: the file lacks a weight, or has tensors that the model does not know.
    """
    parameters = dict(tree_flatten(model.parameters()))
    if config["tie_word_embeddings"]:
        parameters.pop("lm_head.weight", None)
    return model.sanitize(dict(tensors(file, config, parameters)))


def tensors(file: GGUFFile, config: Mapping[str, Any], parameters: Iterable[str]) -> Iterator[tuple[str, Weight]]:
    """The weights of parameters of these names, read one by one. Names are transformers'.

    Raises:
        FormatError: the file lacks a weight, or has more tensors; the latter after the last weight.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = file.metadata["general.architecture"]
    known = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(known, config["num_hidden_layers"])
    vision = {name for name in file.tensors if name.startswith(("v.", "mm."))}
    if vision:
        warnings.warn(f"{file.path.name}: runs as a text model, without {len(vision)} vision tensors", stacklevel=4)
    unused = file.tensors.keys() - {ROPE} - vision - _further_layers(file, config)
    for parameter in parameters:
        tensor = _name(parameter, names)
        weight, read = _weight(file, tensor)
        unused.discard(read)
        yield parameter, _converted(parameter, weight, ARCHITECTURES[architecture], config)
    if unused:
        raise FormatError(
            f"{file.path.name}: tensor {min(unused)!r}: found, expected none such in a {architecture} model"
        )


def _name(parameter: str, names: Any) -> str:
    """The name of a parameter's tensor."""
    known = STACK.sub("mlp.experts.", parameter).replace("score_correction_bias", "score_correction.bias")
    name: str = names.get_name(known, (".weight", ".bias")) or parameter
    return f"{name}.weight" if name.endswith("attn_sinks") else name


def _weight(file: GGUFFile, tensor: str) -> tuple[GGUFWeight, str]:
    """A tensor, or its rows of the one that joins gates and ups of experts; and the name of the tensor read."""
    joined = re.sub(r"ffn_(gate|up)_exps\.weight$", "ffn_gate_up_exps.weight", tensor)
    if tensor in file.tensors or joined not in file.tensors:
        if tensor not in file.tensors:
            raise FormatError(f"{file.path.name}: tensor {tensor!r}: not found")
        return file.weight(tensor), tensor
    whole = file.weight(joined)
    if len(whole.shape) != 3 or whole.shape[1] % 2:
        raise FormatError(f"{file.path.name}: tensor {joined!r}: found {whole.shape}, expected [experts, 2 rows, in]")
    experts, rows, columns = whole.shape
    blocks: Any = whole.arrays["blocks"]
    half = blocks[:, : rows // 2] if "gate_exps" in tensor else blocks[:, rows // 2 :]
    return GGUFWeight(mx.contiguous(half), whole.format.name, (experts, rows // 2, columns)), joined


def _further_layers(file: GGUFFile, config: Mapping[str, Any]) -> set[str]:
    """Tensors of layers that predict further tokens, which no text needs."""
    first = config["num_hidden_layers"]
    count = file.metadata.get(f"{file.metadata['general.architecture']}.nextn_predict_layers", 0)
    prefixes = tuple(f"blk.{layer}." for layer in range(first, first + count))
    return {name for name in file.tensors if name.startswith(prefixes)}


def _converted(parameter: str, weight: GGUFWeight, form: Architecture, config: Mapping[str, Any]) -> Weight:
    """A weight without the changes that the file's converter made."""
    module = parameter.split(".")[-2]
    if form.interleaved and module in ("q_proj", "k_proj"):
        heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
        return _halves(weight, heads)
    if form.norm_offset and module.endswith("norm"):
        return weight.dequantize(mx.float32) - form.norm_offset
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


def rope_factors(file: GGUFFile, config: Mapping[str, Any]) -> list[float] | None:
    """The factors by which some files (from Llama 3.1 on) slow the rotations down."""
    if ROPE not in file.tensors:
        return None
    dims = config["head_dim"]
    factors = file.weight(ROPE).dequantize(mx.float32).reshape(-1)
    if factors.shape != (dims // 2,):
        raise FormatError(f"{file.path.name}: tensor {ROPE!r}: found shape {factors.shape}, expected ({dims // 2},)")
    return [float(factor) for factor in np.asarray(factors)]


def scale_rope(model: Any, config: Mapping[str, Any]) -> None:
    """Applies the config's `rope_factors`."""
    factors: list[float] = config.get("rope_factors") or []
    for layer in model.layers if factors else ():
        layer.self_attn.rope = FactoredRoPE(config["head_dim"], config["rope_theta"], mx.array(factors))


class FactoredRoPE(nn.Module):
    """Rotary positions with a factor for each wavelength.

    Args:
        dims: length of a head.
        base: base of the wavelengths.
        factors: float32 [dims / 2].
    """

    def __init__(self, dims: int, base: float, factors: mx.array):
        super().__init__()
        self.dims = dims
        # The underscore keeps it out of the parameters.
        self._wavelengths = base ** (mx.arange(0, dims, 2) / dims) * factors

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x [batch, heads, positions, dims] rotated, where the first position is `offset`."""
        return mx.fast.rope(
            x, self.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._wavelengths
        )
