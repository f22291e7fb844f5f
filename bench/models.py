"""Language models of known shapes with random weights, one for each way to keep their linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

import mlx_dequant as mxd

from ..nn import PackedLinear, pack_model
from ..weights.fused import joint
from . import random_layers
from .cases import ACT_ORDER, FUSED

_LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5}

# mlx-lm's configs, by the names of the benchmark.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-8b": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"rope_theta": 5e5, "tie_word_embeddings": False},
    "qwen3-4b": {"model_type": "qwen3", "rms_norm_eps": 1e-6, "max_position_embeddings": 40960}
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151936}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3-30b-a3b": {"model_type": "qwen3_moe", "rms_norm_eps": 1e-6, "max_position_embeddings": 40960}
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "vocab_size": 151936}
    | {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128}
    | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
    | {"decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1e6, "tie_word_embeddings": False},
    "smollm2-135m": _LLAMA
    | {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    | {"rope_theta": 1e5, "tie_word_embeddings": True},
}  # fmt: skip

HEADS = ("mlx-6", "dense")  # formats of the embedding and the output layer; torch has only the second
NORM = 2.0**-8  # of the norms in front of random layers: activations stay finite in float16
GROUPS = (128, 64)  # inputs in a group: the first that divides all of a model's
MLX_BITS = {"mlx-4": 4, "mlx-6": 6, "mlx-8": 8}


@dataclass(frozen=True)
class Kind:
    """How the linear layers of a model are kept.

    Attributes:
        provider: who multiplies.
        format: a registry name, a key of `MLX_BITS`, or "dense".
        has_g_idx: whether the weights have act-order.
        fused: whether layers that take the same x share one product.
    """

    provider: str
    format: str
    has_g_idx: bool = False
    fused: bool = False

    @property
    def title(self) -> str:
        """What a person calls it: "mlx-dequant gptq4-act"."""
        return f"{self.provider} {self.name}"

    @property
    def name(self) -> str:
        """The format as an argument names it."""
        return self.format + ACT_ORDER * self.has_g_idx + FUSED * self.fused


def config(name: str, layers: int | None = None) -> dict[str, Any]:
    """A model's config, with another number of layers if given."""
    return CONFIGS[name] | ({} if layers is None else {"num_hidden_layers": layers})


def inputs(settings: dict[str, Any]) -> set[int]:
    """Inputs of the linear layers."""
    heads = settings["num_attention_heads"] * settings["head_dim"]
    return {settings["hidden_size"], _feed_forward(settings), heads}


def _feed_forward(settings: dict[str, Any]) -> int:
    """Outputs of the first layers of a feed-forward part, or of an expert's."""
    return settings.get("moe_intermediate_size") or settings["intermediate_size"]


def misfit(kind: Kind, settings: dict[str, Any]) -> str:
    """Why a model of this shape cannot be kept so; "" if it can."""
    form = mxd.formats().get(kind.format)
    if form is None or form.family != "gguf":
        return ""
    odd = sorted(length for length in inputs(settings) if length % form.weights)
    return f"found {odd[0]} inputs, expected a multiple of {form.weights}" if odd else ""


def group_size(settings: dict[str, Any]) -> int:
    """Inputs in a group of the model's weights."""
    return next(size for size in GROUPS if not any(length % size for length in inputs(settings)))


def nbytes(kind: Kind, settings: dict[str, Any], dtype: mx.Dtype) -> int:
    """Memory that a model's linear layers take, roughly."""
    width, heads = settings["hidden_size"], settings["head_dim"]
    attention = heads * (2 * settings["num_attention_heads"] + 2 * settings["num_key_value_heads"])
    experts = settings.get("num_experts", 1)
    weights = settings["num_hidden_layers"] * width * (attention + 3 * experts * _feed_forward(settings))
    form = mxd.formats().get(kind.format)
    if form is None:
        bits = MLX_BITS[kind.format] + 0.5 if kind.format in MLX_BITS else 8 * dtype.size
    else:
        bits = 8 * form.bytes / form.weights if form.family == "gguf" else form.bits + 0.25
    return int(weights * bits / 8 * (1 + kind.has_g_idx))  # a sorted copy is kept


def shared(settings: dict[str, Any], head: str, dtype: mx.Dtype) -> dict[str, Any]:
    """The embedding and the output layer that all models of a run share, in the format `head` of `HEADS`."""
    ends: dict[str, Any] = {name: layer for name, layer in _empty(settings).named_modules() if _is_end(name, layer)}
    for name, layer in ends.items():
        if head == "dense":
            layer.weight = random_layers.dense(*layer.weight.shape, dtype=dtype)
        else:
            ends[name] = random_layers.mlx_layer(layer, MLX_BITS[head], dtype)
    return ends


def model(kind: Kind, settings: dict[str, Any], dtype: mx.Dtype, ends: dict[str, Any]) -> Any:
    """mlx-lm's model with random linear layers, and the embedding and the output layer `ends`."""
    made = _empty(settings)
    size = group_size(settings)
    packed: dict[str, mxd.QuantizedWeight] = {}
    others: list[tuple[str, Any]] = list(ends.items())
    for name, layer in _linear_layers(made):
        shape = layer.weight.shape
        if kind.format == "dense" or _is_router(name):
            layer.weight = random_layers.dense(*shape, dtype=dtype)
        elif kind.format in MLX_BITS:
            others.append((name, random_layers.mlx_layer(layer, MLX_BITS[kind.format], dtype)))
        else:
            *experts, rows, columns = shape
            each = [
                random_layers.quantized(kind.format, rows, columns, size, kind.has_g_idx)
                for _ in range(*experts or (1,))
            ]
            packed[name] = mxd.stack(each) if experts else each[0]
    made.update_modules(tree_unflatten(others))
    pack_model(made, packed, strict=False, dtype=dtype, fuse=kind.fused)
    arrays: Any = tree_flatten(made.parameters())
    norms = [(name, array) for name, array in arrays if name.endswith("norm.weight")]
    made.load_weights([(name, mx.full(array.shape, _scale(name), dtype)) for name, array in norms], strict=False)
    made.eval()
    mx.eval(made.parameters())
    return made


def _linear_layers(made: Any) -> Iterator[tuple[str, Any]]:
    """The linear layers between the embedding and the output layer, those of experts too, as mlx-lm makes them."""
    from mlx_lm.models.switch_layers import SwitchLinear

    for name, layer in made.named_modules():
        if isinstance(layer, (nn.Linear, SwitchLinear)) and not _is_end(name, layer):
            yield name, layer


def _is_router(name: str) -> bool:
    """Whether a layer chooses experts: files keep it dense."""
    return name.endswith("mlp.gate")


def experts(made: Any) -> dict[str, Any]:
    """The layers of the experts of a model's first block, by what they do, in any format; none of other models."""
    found = getattr(made.layers[0].mlp, "switch_mlp", None)
    return {} if found is None else {"up": found.up_proj, "down": found.down_proj}


def products(made: Any) -> list[tuple[Any, int]]:
    """Each kind of product of a model's blocks once, as a layer of any format, and its inputs."""
    found: dict[Any, tuple[Any, int]] = {}
    for block in made.layers:
        for _, layer in block.named_modules():
            if isinstance(layer, PackedLinear):
                weight = joint(layer.weight)
                alone = layer if weight is layer.weight else PackedLinear(weight)
                found.setdefault((weight.format, weight.shape, weight.matrix.has_g_idx), (alone, weight.in_features))
            elif isinstance(layer, (nn.Linear, nn.QuantizedLinear)):
                bits = layer.bits if isinstance(layer, nn.QuantizedLinear) else 0
                length = layer.weight.shape[1] * 32 // bits if bits else layer.weight.shape[1]
                found.setdefault((bits, layer.weight.shape), (layer, length))
    return list(found.values())


def _empty(settings: dict[str, Any]) -> Any:
    from ..lm.folder import empty_model

    return empty_model(settings)


def _is_end(name: str, layer: Any) -> bool:
    return isinstance(layer, nn.Embedding) or (isinstance(layer, nn.Linear) and name == "lm_head")


def _scale(name: str) -> float:
    return NORM if "layernorm" in name else 1.0
