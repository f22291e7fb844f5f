"""The config of the model in a GGUF file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import FormatError
from ..loading import GGUFFile
from . import folder, gguf_experts, settings
from .gguf_architectures import ARCHITECTURES, Architecture
from .gguf_keys import Keys
from .gguf_rope import rope
from .rotary import FAR, NEAR

# The settings that say whether layers have a bias, and a tensor whose presence tells it.
BIASES = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
# The models in which llama.cpp's layers see windows.
WINDOWS = ("gemma2", "gemma3_text", "phi3", "olmo2", "cohere2", "exaone4", "gpt_oss", "gemma3n_text", "gemma4_text")


def config(file: GGUFFile, ignore: Collection[str] = ()) -> dict[str, Any]:
    """mlx-lm's config of the model in a file: what a config.json of transformers would say, checked like one.

    Args:
        file: an open file.
        ignore: keys of the metadata to leave out.

    Raises:
        FormatError: the architecture is not supported, a key is missing or not known, or its value asks for a feature
            that mlx-lm's model lacks.
    """
    form = architecture(file)
    keys = Keys(file, ignore)
    stored = _stored(file, form, keys)
    keys.check_rest()
    if form.outer:
        tied = stored["tie_word_embeddings"]
        stored = {"model_type": form.outer, "text_config": stored, "tie_word_embeddings": tied}
    try:
        return folder.read(stored)
    except FormatError as error:
        raise FormatError(f"{file.path.name}: as {error}") from None


def architecture(file: GGUFFile) -> Architecture:
    """The row of a file's architecture."""
    name: Any = file.metadata.get("general.architecture")
    what = file.metadata.get("general.type", "model")
    if what in ("adapter", "mmproj", "imatrix"):
        raise FormatError(f"{file.path.name}: general.type: found {what!r}, expected 'model'")
    if name not in ARCHITECTURES:
        raise FormatError(
            f"{file.path.name}: general.architecture: found {name!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _stored(file: GGUFFile, form: Architecture, keys: Keys) -> dict[str, Any]:
    """The settings by transformers' names."""
    experts = keys.get("expert_count", 0)
    kind = form.mixture if experts else form.model_type
    if not kind:
        raise keys.fail("expert_count", experts, "0 (a dense model)" if experts else "a positive integer")
    if "token_embd.weight" not in file.tensors:
        raise FormatError(f"{file.path.name}: tensor 'token_embd.weight': not found")
    layers = keys.need("block_count")
    if not 0 < layers <= len(file.tensors):
        raise keys.fail("block_count", layers, f"at most one for each of {len(file.tensors)} tensors")
    heads, hidden = keys.need("attention.head_count"), keys.need("embedding_length")
    head_dim = form.head(keys) if form.head else _head(keys, hidden // heads)
    if form.interleaved and (turned := keys.get("rope.dimension_count", head_dim)) != head_dim:
        raise keys.fail("rope.dimension_count", turned, f"{head_dim} (the length of a key)")
    variance = "attention.layer_norm_epsilon" if form.means else "attention.layer_norm_rms_epsilon"
    result = {
        "model_type": kind,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": _width(keys, layers, bool(experts)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _shared(keys, layers, heads, form.mixed),
        "head_dim": head_dim,
        # Ollama's Gemma 3 files leave it out.
        form.epsilon: (form.norm_offset and keys.get(variance, 1e-6, float)) or keys.need(variance, float),
        "max_position_embeddings": keys.need("context_length"),
        "rope_parameters": rope(file, keys, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_windows(keys, layers, kind),
    }
    for key, name in form.numbers.items():
        if (value := keys.get(key, None, float)) is not None:
            result[name] = value
    result |= form.more(keys, result) if form.more else {}
    result |= gguf_experts.config(file, keys, result) if experts else {}
    known = settings.names(folder.classes(result)[1])
    return result | {name: tensor in file.tensors for name, tensor in BIASES.items() if name in known}


def _head(keys: Keys, default: int) -> int:
    """The length of a head."""
    length = keys.get("attention.key_length", default)
    if keys.get("attention.value_length", length) != length:
        raise keys.fail("attention.value_length", keys.need("attention.value_length"), f"{length}, as key_length")
    return length


def _width(keys: Keys, layers: int, experts: bool) -> int | list[int]:
    """The rows of a feed-forward layer, which some mixtures of experts have none of; or those of each layer."""
    key = "feed_forward_length"
    if (widths := keys.layers(key, layers)) is not None:
        return widths if len(set(widths)) > 1 else widths[0]
    return keys.get(key, 0) if experts else keys.need(key)


def _shared(keys: Keys, layers: int, heads: int, mixed: bool) -> int:
    """The heads of keys and values, which layers without attention have none of; any of them where they differ."""
    key = "attention.head_count_kv"
    counts = set(keys.layers(key, layers) or [keys.get(key, heads)]) - {0}
    if len(counts) != 1 and not (counts and mixed):
        raise keys.fail(key, sorted(counts), "one number of heads")
    count = counts.pop()
    if isinstance(count, int) and count > 0 and heads % count:
        raise keys.fail(key, count, f"a number that divides {heads}, the attention heads")
    return count


def _windows(keys: Keys, layers: int, kind: str) -> dict[str, Any]:
    window, key = keys.get("attention.sliding_window", 0), "attention.sliding_window_pattern"
    if kind not in WINDOWS:
        if 0 < window < keys.need("context_length"):
            raise keys.fail("attention.sliding_window", window, "0: llama.cpp ignores it in this architecture")
        return {"sliding_window": None}
    pattern = keys.layers(key, layers)
    if pattern is None and keys.get(key, None) is not None:  # the n-th layer sees everything
        pattern = [number % keys.need(key) != 0 for number in range(1, layers + 1)]
    kinds = {"layer_types": [NEAR if near else FAR for near in pattern]} if pattern and window else {}
    return {"sliding_window": window or None, **kinds}
