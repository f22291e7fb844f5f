"""mlx-lm's config of the model in a GGUF file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError
from ..loading import GGUFFile
from .gguf_keys import Keys
from .rotary import yarn


@dataclass(frozen=True)
class Architecture:
    """An architecture of GGUF files.

    Attributes:
        model_type: mlx-lm's name for it.
        interleaved: whether the rows of queries and keys that rotate together are stored next to each other.
        norm_offset: what the converter added to the weights of norms.
    """

    model_type: str
    interleaved: bool = False
    norm_offset: float = 0.0


ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma3": Architecture("gemma3_text", norm_offset=1.0),
}


def _architecture(file: GGUFFile) -> Architecture:
    name = file.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise FormatError(
            f"{file.path.name}: general.architecture: found {name!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def config(file: GGUFFile, ignore: Collection[str] = ()) -> dict[str, Any]:
    """mlx-lm's config of the model in a file.

    Args:
        file: an open file.
        ignore: keys of the metadata to leave out.

    Raises:
        FormatError: the architecture is not supported, a key is missing or not known, or its value asks for a feature
            that mlx-lm's model lacks.
    """
    form = _architecture(file)
    keys = Keys(file, ignore)
    if keys.get("expert_count", 0):
        raise keys.fail("expert_count", keys.need("expert_count"), "0 (a dense model)")
    if "token_embd.weight" not in file.tensors:
        raise FormatError(f"{file.path.name}: tensor 'token_embd.weight': not found")
    layers = keys.need("block_count")
    if not 0 < layers <= len(file.tensors):
        raise keys.fail("block_count", layers, f"at most one for each of {len(file.tensors)} tensors")
    heads, hidden = keys.need("attention.head_count"), keys.need("embedding_length")
    head_dim = keys.get("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.get(key, head_dim) != head_dim:
            raise keys.fail(key, keys.need(key), f"{head_dim} (the length of a key)")
    result = {
        "model_type": form.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys.need("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _norm_eps(keys, form),
        "max_position_embeddings": keys.need("context_length"),
        "rope_theta": keys.get("rope.freq_base", 10000.0, float),
        "rope_scaling": _rope_scaling(keys),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }
    result |= _gemma3(keys, result) if form.model_type == "gemma3_text" else _no_window(keys, result)
    keys.check_rest()
    return result


def _norm_eps(keys: Keys, form: Architecture) -> float:
    # Ollama's Gemma 3 files leave it out.
    known = keys.get("attention.layer_norm_rms_epsilon", None, float) or (form.norm_offset and 1e-6)
    return known or keys.need("attention.layer_norm_rms_epsilon", float)


def _no_window(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    window = keys.get("attention.sliding_window", 0)
    if 0 < window < result["max_position_embeddings"]:
        raise keys.fail("attention.sliding_window", window, "0: neither llama.cpp nor this package reads it here")
    return {}


def _rope_scaling(keys: Keys) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type", "linear", str)  # llama.cpp's default
    factor = keys.get("rope.scaling.factor", 0.0, float) or keys.get("rope.scale_linear", 0.0, float) or 1.0
    if kind not in ("none", "linear", "yarn"):
        raise keys.fail("rope.scaling.type", kind, "none, linear or yarn")
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["factor"] = keys.need("rope.scaling.factor", float)
        scaling["original_max_position_embeddings"] = keys.need("rope.scaling.original_context_length")
        for name in ("beta_fast", "beta_slow"):
            value = keys.get(f"rope.scaling.yarn_{name}", None, float)
            if value is not None:
                scaling[name] = value
        factor = keys.get("rope.scaling.yarn_attn_factor", None, float)
        if factor is not None:  # llama.cpp's releases disagree whether it replaces YaRN's own factor
            raise keys.fail("rope.scaling.yarn_attn_factor", factor, "none")
        scaling = yarn(scaling)
    return scaling


def _gemma3(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    # Only the 27B model scales queries by hidden size / heads. The file does not say so.
    scalar = result["hidden_size"] // result["num_attention_heads"]
    # The second names are Ollama's.
    base, near = (
        keys.get(f"rope.{name}", None, float) or keys.get(f"rope.{other}.freq_base", default, float)
        for name, other, default in (("freq_base", "global", 1000000.0), ("freq_base_swa", "local", 10000.0))
    )
    return {
        "rope_theta": base,
        "rope_local_base_freq": near,
        "query_pre_attn_scalar": scalar if result["num_hidden_layers"] == 62 else result["head_dim"],
        "sliding_window": keys.need("attention.sliding_window"),
        "sliding_window_pattern": _pattern(keys, result["num_hidden_layers"]),
    }


def _pattern(keys: Keys, count: int) -> int:
    """After how many layers one sees everything: a number, or for each layer whether it sees a window."""
    key = "attention.sliding_window_pattern"
    windows = keys.layers(key, count)
    if windows is None:
        return keys.need(key) if keys.get(key, None) is not None else 6
    every = windows.index(False) + 1 if False in windows else 0
    if not every or windows != [number % every != 0 for number in range(1, count + 1)]:
        raise keys.fail(key, windows, "every n-th of them false")
    return every
