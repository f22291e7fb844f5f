"""Rotary positions as GGUF files have them, in transformers' form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import FormatError
from ..loading import GGUFFile
from .gguf_keys import Keys

FACTORS = "rope_freqs.weight"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
TENSORS = {FACTORS, SHORT, LONG}
# transformers' names for what YaRN's keys say.
YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
CONTEXTS = tuple(2**power for power in range(5, 21))
ENDLESS = 1e29
LOW, HIGH = 1.0, 4.0  # what every model so far has


def llama3_scaling(factors: Sequence[float], base: float) -> dict[str, Any]:
    """The settings that transformers and mlx-lm compute these factors from. A file has the factors only.

    Raises:
        FormatError: no settings of the type llama3 give them.
    """
    found = np.array(factors)
    if (found == 1).all():
        return {"rope_type": "default"}
    factor = float(found.max())
    for context in CONTEXTS:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": context,
        }
        if np.allclose(_factors(len(found), base, factor, context), found, rtol=1e-5):
            return scaling
    raise FormatError("rope_freqs.weight: found factors that are not llama3's, expected such: mlx-lm has no other")


def _factors(count: int, base: float, factor: float, context: int) -> np.ndarray[Any, Any]:
    cycles = context / (2 * math.pi * base ** (np.arange(count) / count))
    smooth = (cycles - LOW) / (HIGH - LOW)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(cycles < LOW, factor, np.where(cycles > HIGH, 1, between))


def rope(file: GGUFFile, keys: Keys, head_dim: int) -> dict[str, Any]:
    """`rope_parameters` of transformers 5.

    Raises:
        FormatError: a key or a tensor asks for what neither mlx-lm nor `rotary` computes.
    """
    turned = keys.get("rope.dimension_count", head_dim)
    if not 0 < turned <= head_dim or turned % 2:
        raise keys.fail("rope.dimension_count", turned, f"an even number up to {head_dim} (the length of a key)")
    base = keys.get("rope.freq_base", 10000.0, float)
    if (share := _proportion(file)) is not None:
        return {"rope_theta": base, "rope_type": "proportional", "partial_rotary_factor": share}
    result = {"rope_theta": base, **_scaling(file, keys, base)}
    return result if turned == head_dim else result | {"partial_rotary_factor": turned / head_dim}


def _proportion(file: GGUFFile) -> float | None:
    """The share of wavelengths that turn, where the others are made endless, as Gemma 4's."""
    if FACTORS not in file.tensors:
        return None
    factors = np.array(_numbers(file, FACTORS))
    count = int((factors == 1).sum())
    if count == len(factors) or (factors[:count] != 1).any() or (factors[count:] < ENDLESS).any():
        return None
    return count / len(factors)


def _scaling(file: GGUFFile, keys: Keys, base: float) -> dict[str, Any]:
    kind = keys.get("rope.scaling.type", "linear", str)  # llama.cpp's default
    length = "rope.scaling.original_context_length"
    attention = keys.get("rope.scaling.attn_factor", 1.0, float)
    if LONG in file.tensors:
        scaling = {f"{name}_factor": _numbers(file, tensor) for name, tensor in (("short", SHORT), ("long", LONG))}
        scaling |= {"original_max_position_embeddings": keys.need(length), "attention_factor": attention}
        return {"rope_type": "longrope", **scaling}
    if FACTORS in file.tensors:
        return llama3_scaling(_numbers(file, FACTORS), base)
    if attention != 1:
        raise keys.fail("rope.scaling.attn_factor", attention, f"1 without {LONG}")
    factor = keys.get("rope.scaling.factor", 0.0, float) or keys.get("rope.scale_linear", 0.0, float) or 1.0
    if kind not in ("none", "linear", "yarn"):
        raise keys.fail("rope.scaling.type", kind, "none, linear or yarn")
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": kind, "factor": factor}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": keys.need("rope.scaling.factor", float)}
    scaling["original_max_position_embeddings"] = keys.need(length)
    scaling |= {name: value for key, name in YARN.items() if (value := keys.get(f"rope.scaling.{key}", None, float))}
    if multiplier := keys.get("rope.scaling.yarn_log_multiplier", 0.0, float):
        scaling |= {"mscale": 1.0, "mscale_all_dim": multiplier}
    return scaling


def _numbers(file: GGUFFile, tensor: str) -> list[float]:
    if tensor not in file.tensors:
        raise FormatError(f"{file.path.name}: tensor {tensor!r}: not found")
    return [float(number) for number in np.asarray(file.weight(tensor).dequantize(mx.float32)).reshape(-1)]
