"""Transformers' models whose linear layers stay packed: of a checkpoint, or of a model that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ... import dtypes
from ...errors import FormatError
from ...loading import Checkpoint, load
from ...weights import QuantizedWeight
from ..arguments import FLOATS
from ..torch import to_torch
from . import saving
from .gguf_layers import GGUFEmbedding, packed_embedding
from .layers import packed_linear

Weight = QuantizedWeight | mx.array
# Buffers that checkpoints of older versions have, and models make themselves.
UNUSED = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")


def load_transformers(
    path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Any:
    """A quantized checkpoint as transformers' own model on torch, its linear layers packed.

    Args:
        path: a folder that `mlx_dequant.load` reads, of any causal language model of transformers in which the
            quantized layers are linear layers; or a GGUF file of an architecture that `mlx_dequant.lm.load`
            reads, without experts, which needs mlx-lm too. In a GGUF file's model the embedding is packed as well.
        dtype: type of activations and of dense weights; that of config.json by default, bfloat16 for GGUF.
        device: "cpu" and "mps" share the weights' memory with MLX, "cuda" gets a copy. By default as for `to_torch`.

    Returns:
        The model, for inference. Packed weights are frozen; adapters on top of them train. `save_pretrained` writes a
        folder that opens again, if the tensors are a GPTQ, AWQ (gemm) or pack-quantized folder's own; otherwise it
        raises FormatError.

    Raises:
        FileNotFoundError: the file or folder, or a file it names, is missing.
        FormatError: the format or the architecture is not supported, or a tensor is missing, has another shape or
            is not one of the model's.
    """
    from transformers import AutoModelForCausalLM

    path = Path(path)
    source = _Folder(path) if path.is_dir() else _gguf(path)
    config = source.config()
    kind = dtype or config.dtype or torch.bfloat16
    if kind not in FLOATS:
        raise FormatError(f"dtype: found {kind}, expected float16, bfloat16 or float32")
    with Unallocated():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=kind)
    target = to_torch(mx.zeros(1), device).device
    _fill(model, source.weights(model.state_dict()), kind, target, path.name)
    source.finish(model)
    return model.to(target).eval()


def replace_linears(model: nn.Module, checkpoint: Checkpoint | str | Path) -> nn.Module:
    """Replaces a transformers model's linear layers by packed ones, where a checkpoint has them packed.

    Args:
        model: changed in place, unless an error is raised. Biases, embeddings and what else the checkpoint has stay
            as they are in the model.
        checkpoint: what `mlx_dequant.load` returns, or its path.

    Returns:
        The model.

    Raises:
        FormatError: a packed layer is not one of the model's linear layers, or a shape does not fit.
    """
    path = checkpoint.path if isinstance(checkpoint, Checkpoint) else Path(checkpoint)
    source = _Folder(checkpoint if isinstance(checkpoint, Checkpoint) else path) if path.is_dir() else _gguf(path)
    found: list[tuple[str, nn.Linear, QuantizedWeight]] = []
    for parameter, weight in source.weights(model.state_dict()):
        name = parameter.removesuffix(".weight")
        if isinstance(weight, mx.array) or name == parameter:
            continue
        layer = _layer(model, name, path.name)
        if type(layer) is nn.Linear:
            _check_shape(name, layer, weight)
            found.append((name, layer, weight))
        elif path.is_dir():
            raise FormatError(f"{path.name}: module {name!r}: found {type(layer).__name__}, expected a linear layer")
    for name, layer, weight in found:
        _put(model, name, layer, weight, layer.weight.device)
    if found and hasattr(model, "save_pretrained"):
        saving.refuse(model, path.name)
    return model


class _Folder:
    """A folder as transformers' models need it: their config, and its weights by their parameters' names."""

    def __init__(self, checkpoint: Checkpoint | Path):
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)

    def config(self) -> Any:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.checkpoint.path)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        if "lm_head" in self.checkpoint.weights:
            config.tie_word_embeddings = False  # a packed output layer is not the embedding
        return config

    def weights(self, parameters: Iterable[str]) -> Iterator[tuple[str, Weight]]:
        for name, weight in self.checkpoint.weights.items():
            yield f"{name}.weight" if isinstance(weight, QuantizedWeight) else name, weight

    def finish(self, model: Any) -> None:
        from transformers import GenerationConfig

        saving.prepare(model, self.checkpoint.path)
        if (self.checkpoint.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(self.checkpoint.path)


def _gguf(path: Path) -> Any:
    from .gguf import Source  # it needs mlx-lm

    return Source(path)


class Unallocated(TorchFunctionMode):
    """Inside the `with`, new layers get no memory for their weights. What a model computes for itself gets it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def _fill(model: Any, weights: Iterator[tuple[str, Weight]], dtype: torch.dtype, device: Any, file: str) -> None:
    expected: Mapping[str, torch.Tensor] = model.state_dict()
    missing = set(expected)
    for name, weight in weights:
        missing.discard(name)
        owner = name.rpartition(".")[0]
        if name not in expected:
            if not UNUSED.search(name) and not _zero_bias(name, weight):
                raise FormatError(f"{file}: {name}: found, expected none such in a {type(model).__name__}")
            continue
        layer = _layer(model, owner, file)
        if isinstance(weight, QuantizedWeight) and name.endswith(".weight") and _packable(layer, weight, dtype):
            _check_shape(owner, layer, weight)
            _put(model, owner, layer, weight, device, dtype)
            continue
        tensor = _dense(weight, dtype, device)
        if tensor.shape != expected[name].shape:
            raise FormatError(f"{file}: {name}: found {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        model.load_state_dict({name: tensor}, strict=False, assign=True)
    _tie(model)
    left = sorted(name for name in missing & model.state_dict().keys() if name not in _tied(model))
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise FormatError(f"{file}: {left[0]}{more}: not found, expected in a {type(model).__name__}")


def _layer(model: nn.Module, name: str, file: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise FormatError(f"{file}: module {name!r}: found, expected none such in a {type(model).__name__}") from None


def _packable(layer: nn.Module, weight: QuantizedWeight, dtype: torch.dtype) -> bool:
    """Whether a layer can be packed, and it pays: plain numbers in the layer's own type are just as good there."""
    if len(weight.shape) != 2 or weight.format.stored == FLOATS[dtype]:
        return False
    embedding = type(layer) is nn.Embedding or (
        isinstance(layer, nn.Embedding) and hasattr(layer, "scalar_embed_scale")
    )
    return type(layer) is nn.Linear or (embedding and weight.family == "gguf")


def _check_shape(name: str, layer: Any, weight: QuantizedWeight) -> None:
    shape = weight.out_features, weight.in_features
    if layer.weight.shape != shape:
        raise FormatError(f"layer {name!r}: found a weight of {shape}, expected {tuple(layer.weight.shape)}")


def _put(
    model: nn.Module, name: str, layer: Any, weight: QuantizedWeight, device: Any, dtype: torch.dtype = torch.float32
) -> None:
    if isinstance(layer, nn.Embedding):
        new: Any = packed_embedding(weight, dtype, getattr(layer, "scalar_embed_scale", 1.0), device)
    else:
        new = packed_linear(weight, device)
        new.bias = layer.bias
    new.train(layer.training)
    model.set_submodule(name, new)


def _dense(weight: Weight, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """A tensor of its own, [out, in] if it is a matrix; floats in `dtype`."""
    wanted = dtypes.of(FLOATS[dtype])
    if isinstance(weight, QuantizedWeight):
        array = weight.dequantize(wanted)
        array = array.T if weight.matrix.layout == "KN" else array
    else:
        array = weight.astype(wanted) if mx.issubdtype(weight.dtype, mx.floating) else weight
    return to_torch(mx.contiguous(array), device).clone()


def _zero_bias(name: str, weight: Weight) -> bool:
    """Whether it is zeros that AutoGPTQ wrote for a layer without a bias."""
    return name.endswith(".bias") and isinstance(weight, mx.array) and not bool(mx.any(weight))


def _tied(model: Any) -> set[str]:
    """Parameters that are the embedding's."""
    return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()


def _tie(model: Any) -> None:
    embedding = model.get_input_embeddings()
    if model.config.tie_word_embeddings and isinstance(embedding, GGUFEmbedding):
        model.set_output_embeddings(embedding.as_linear())
    elif model.config.tie_word_embeddings:
        model.tie_weights()
