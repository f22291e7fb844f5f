"""Rotary positions: transformers' settings in mlx-lm's form, and RoPE modules where mlx-lm's models lack one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import FormatError
from .settings import fail
from .settings_table import Row

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
NEAR, FAR = "sliding_attention", "full_attention"


def flatten(settings: dict[str, Any]) -> None:
    """Moves `rope_parameters` of transformers 5 to the keys that mlx-lm's models read, in place.

    Raises:
        FormatError: settings by the kind of layer, in a model that has one set of them.
    """
    rope = settings.get("rope_parameters")
    if settings.get("model_type") == "gemma4_text":
        return  # mlx-lm's model reads settings by the kind of layer
    if isinstance(rope, dict):
        kinds = [key for key, value in rope.items() if isinstance(value, dict)]
        if kinds:
            rope = _by_kind_of_layer(settings, rope, kinds)
        for key in ("rope_theta", "partial_rotary_factor"):
            if rope.get(key) is not None:
                settings[key] = rope[key]
        settings["rope_scaling"] = None if kind(rope) == "default" else dict(rope)
    scaling = settings.get("rope_scaling")
    if isinstance(scaling, dict) and kind(scaling) == "yarn":
        scaling = yarn(scaling)
    for key, name in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        if settings.get(key) is not None:  # GPT-NeoX's names
            settings[name] = settings[key]
    if isinstance(scaling, dict):
        settings["rope_scaling"] = scaling | {"type": kind(scaling), "rope_type": kind(scaling)}


def kind(scaling: Mapping[str, Any] | None) -> str:
    found = str((scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default")
    # `mrope` tells positions in pictures; in text all of them are the same.
    return {"su": "longrope", "mrope": "default"}.get(found, found)


def _by_kind_of_layer(settings: dict[str, Any], rope: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    """The settings of layers that see everything. Those that see a window have a base of their own in Gemma 3."""
    model = settings.get("model_type")
    if set(kinds) != {FAR, NEAR} or model not in ("gemma3_text", "gemma3n_text", "olmo3"):
        raise fail(
            "rope_parameters",
            ", ".join(kinds),
            f"one set in a {model} ({FAR} and {NEAR} in a gemma3_text or olmo3)",
        )
    near, far = rope[NEAR], rope[FAR]
    if kind(near) != "default":
        raise fail(f"rope_parameters.{NEAR}.rope_type", kind(near), "'default'")
    if model != "olmo3":
        settings["rope_local_base_freq"] = near.get("rope_theta", settings.get("rope_local_base_freq", 1e4))
    elif near.get("rope_theta") != far.get("rope_theta"):
        raise fail(f"rope_parameters.{NEAR}.rope_theta", near.get("rope_theta"), f"{far.get('rope_theta')}, as {FAR}")
    return far


def yarn(scaling: dict[str, Any]) -> dict[str, Any]:
    """YaRN's settings for mlx-lm, which computes the factor of attention from `mscale` and reads no other."""
    wanted, factor = scaling.get("attention_factor"), scaling.get("factor")
    scaling = {key: value for key, value in scaling.items() if value is not None}
    if wanted is None:
        if not (scaling.get("mscale") and scaling.get("mscale_all_dim")):
            scaling = {key: value for key, value in scaling.items() if key not in ("mscale", "mscale_all_dim")}
        return scaling
    if not isinstance(factor, (int, float)) or factor <= 1:
        raise FormatError(f"rope_scaling.factor: found {factor!r} beside an attention_factor, expected more than 1")
    return scaling | {"mscale": (wanted - 1) / (0.1 * math.log(factor)), "mscale_all_dim": 0}


def check(settings: Mapping[str, Any], row: Row, known: set[str]) -> None:
    """Refuses what neither mlx-lm's model nor `replace` computes."""
    found, ours = kind(settings.get("rope_scaling")), row.rope
    expected = (*KINDS, "longrope") if ours else KINDS if {"rope_scaling", "rope_parameters"} & known else ("default",)
    expected = row.scalings or expected
    if found not in expected:
        raise fail("rope_scaling.rope_type", found, f"{', '.join(expected)} in a {settings['model_type']}")
    if not ours and (settings.get("rope_scaling") or {}).get("truncate") is False:
        raise fail("rope_scaling.truncate", False, f"true: mlx-lm's {settings['model_type']} rounds YaRN's range")
    share = settings.get("partial_rotary_factor")
    size = settings.get("head_dim")
    if share and size and "rotary_dim" in known and settings.get("rotary_dim") == share * size:
        return  # transformers derives one from the other
    if share not in (None, 1) and ours and not row.partial:
        raise fail("partial_rotary_factor", share, f"1: transformers' {settings['model_type']} ignores it")
    if share not in (None, 1) and not ours and not {"partial_rotary_factor", "rope_parameters", "rotary_pct"} & known:
        raise fail("partial_rotary_factor", share, f"1: mlx-lm's {settings['model_type']} ignores it")


def replace(model: Any, settings: Mapping[str, Any]) -> None:
    """Gives each layer that rotates the RoPE that the settings ask for, if it is not a plain one of all dimensions."""
    from mlx_lm.models.rope_utils import initialize_rope

    scaling: dict[str, Any] = dict(settings.get("rope_scaling") or {})
    share = settings.get("partial_rotary_factor") or 1
    limit: Any = settings.get("max_position_embeddings")
    size = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    dims, base = int(size * share), settings["rope_theta"]
    for layer in model.layers:
        old = layer.self_attn.rope
        traditional = getattr(old, "traditional", False)
        if kind(scaling) == "longrope":
            layer.self_attn.rope = LongRoPE(dims, base, traditional, limit, scaling)
        elif scaling or getattr(old, "dims", dims) != dims:
            layer.self_attn.rope = initialize_rope(dims, base, traditional, scaling or None, limit)
            if kind(scaling) == "yarn" and scaling.get("truncate") is False:
                layer.self_attn.rope._freqs = _yarn_wavelengths(dims, base, scaling)


def _yarn_wavelengths(dims: int, base: float, scaling: Mapping[str, Any]) -> mx.array:
    """YaRN's wavelengths [dims / 2] where the ends of its range are not rounded, as gpt-oss has it."""
    original = scaling["original_max_position_embeddings"]
    ends = (
        dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1))
    )
    low, high = (min(max(end, 0), dims - 1) for end in ends)
    share = mx.clip((mx.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
    wavelengths = base ** (mx.arange(0, dims, 2) / dims)
    return 1 / (share / (scaling["factor"] * wavelengths) + (1 - share) / wavelengths)


class LongRoPE(nn.Module):
    """Rotary positions with one factor a wavelength for short texts and another for long ones.

    Args:
        dims: how many of a head's numbers turn.
        base: base of the wavelengths.
        traditional: whether the pairs that turn are neighbours.
        limit: the longest text, in tokens.
        scaling: `short_factor` and `long_factor` [dims / 2], and `original_max_position_embeddings`, up to which
            a text is short.

    Raises:
        FormatError: a setting is missing, or the factors have another number.
    """

    def __init__(self, dims: int, base: float, traditional: bool, limit: int, scaling: Mapping[str, Any]):
        super().__init__()
        self.dims, self.traditional = dims, traditional
        self.original: Any = scaling.get("original_max_position_embeddings")
        if not isinstance(self.original, int):
            raise fail("rope_scaling.original_max_position_embeddings", self.original, "a number of tokens")
        wavelengths = base ** (mx.arange(0, dims, 2) / dims)
        for name in ("short_factor", "long_factor"):
            factors = scaling.get(name)
            if not isinstance(factors, list) or len(factors) != dims // 2:
                found = len(factors) if isinstance(factors, list) else factors
                raise fail(f"rope_scaling.{name}", found, f"{dims // 2} numbers")
        self._short, self._long = (wavelengths * mx.array(scaling[f"{name}_factor"]) for name in ("short", "long"))
        longer = scaling.get("factor") or limit / self.original
        default = math.sqrt(1 + math.log(longer) / math.log(self.original)) if longer > 1 else 1.0
        self.scale = scaling.get("attention_factor") or default

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x [batch, heads, positions, dims of a head] rotated, where the first position is `offset`."""
        if isinstance(offset, int):
            freqs = self._long if offset + x.shape[-2] > self.original else self._short
        else:
            freqs = mx.where(mx.max(offset) + x.shape[-2] > self.original, self._long, self._short)
        x = x if self.scale == 1 else mx.concatenate([x[..., : self.dims] * self.scale, x[..., self.dims :]], axis=-1)
        return mx.fast.rope(
            x, self.dims, traditional=self.traditional, base=None, scale=1.0, offset=offset, freqs=freqs
        )
