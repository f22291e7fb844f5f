"""Quantization configs: the format of a folder, and the settings of each of its modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError
from .settings import NOT_QUANTIZED, Settings, flat, integer, names, one_of, pattern, table

ZERO_POINTS = {"gptq": "v1", "gptq_v2": "v2"}
# auto-round's names: the format, and how zero points are stored.
AUTO_ROUND = {
    "auto_round:auto_gptq": ("gptq", "v1"),
    "auto_round:gptq": ("gptq", "v1"),
    "auto_round:gptqmodel": ("gptq", "v2"),
    "auto_round": ("gptq", "v2"),
    "auto_round:auto_awq": ("awq", ""),
    "auto_round:awq": ("awq", ""),
}


@dataclass(frozen=True)
class Scheme:
    """A folder's format ("gptq", "awq" or "compressed-tensors"), the settings of a module by its name,
    and GPTQ's kind of zero points."""

    format: str
    of: Callable[[str], Settings]
    zero_points: str = ""


def scheme(config: dict[str, Any]) -> Scheme:
    """Reads a quantization config.

    Raises:
        FormatError: the method or its variant is not supported, or a setting is not valid.
    """
    method = config.get("quant_method", config.get("method"))
    if method is None and "w_bit" in config:
        method = "awq"  # AutoAWQ's own file has no quant_method
    elif method is None and {"bits", "group_size", "desc_act"} <= config.keys():
        method = "gptq"  # and neither has AutoGPTQ's
    readers = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors, "auto-round": _auto_round}
    read = readers.get(str(method).lower().removeprefix("intel/"))
    if read is None:
        raise FormatError(f"quant_method: found {method!r}, expected {' or '.join(map(repr, readers))}")
    return read(config)


def _gptq(config: dict[str, Any]) -> Scheme:
    kind = config.get("checkpoint_format") or config.get("format") or "gptq"
    one_of("checkpoint_format", "marlin" if config.get("is_marlin_format") else kind, tuple(ZERO_POINTS))
    one_of("pack_dtype", config.get("pack_dtype", "int32"), ("int32",))
    return Scheme("gptq", _rules(config), ZERO_POINTS[kind])


def _awq(config: dict[str, Any]) -> Scheme:
    version = config.get("version") or config.get("checkpoint_format") or config.get("format") or "gemm"
    one_of("AWQ version", str(version).lower(), ("gemm",))
    return Scheme("awq", _rules(config))


def _auto_round(config: dict[str, Any]) -> Scheme:
    packing = config.get("packing_format") or config.get("backend") or "auto"
    # Old releases added the kernel to the layout: auto_round:gptq:exllamav2.
    layout = re.sub(r":(exllamav2|tritonv2|marlin)$", "", str(packing).replace("auto-round", "auto_round"))
    layout = "auto_round:auto_gptq" if layout == "auto" else layout
    one_of("packing_format", layout, tuple(AUTO_ROUND))
    one_of("data_type", config.get("data_type", "int"), ("int",))
    form, zero_points = AUTO_ROUND[layout]
    return Scheme(form, _rules(config), zero_points)


def _rules(config: dict[str, Any]) -> Callable[[str], Settings]:
    """The settings of a module by its name, from a flat config with exceptions.

    The exceptions are `extra_config` (auto-round) by name or pattern, `dynamic` (GPTQModel) by pattern, with "-:"
    for not quantized, and `modules_to_not_convert` (AutoAWQ) by the name of the module or of a parent.
    """
    base = flat(config)
    named = {key: flat(values, base) for key, values in table(config, "extra_config").items()}
    patterns: list[tuple[Callable[[str], Any], Settings]] = []
    for key, values in table(config, "dynamic").items():
        matches = pattern("dynamic", re.sub("^[-+]:", "", key)).match
        patterns.append((matches, NOT_QUANTIZED if key.startswith("-:") else flat(values, base)))
    for key, values in named.items():
        if re.search(r"[*+?^$()\[\]{}|\\]", key):
            patterns.append((pattern("extra_config", key).search, values))
    skipped = names(config, "modules_to_not_convert")

    def of(module: str) -> Settings:
        if module in named:
            return named[module]
        if any(f".{name}." in f".{module}." for name in skipped):
            return NOT_QUANTIZED
        return next((settings for matches, settings in patterns if matches(module)), base)

    return of


def _compressed_tensors(config: dict[str, Any]) -> Scheme:
    default_format = config.get("format")
    one_of("format", default_format, ("pack-quantized", "mixed-precision"))
    one_of("sparsity_config.format", table(config, "sparsity_config").get("format") or "dense", ("dense",))
    if table(config, "transform_config").get("config_groups"):
        raise FormatError("transform_config: found rotations, expected none: the model would have to undo them")
    targets: list[tuple[str, Settings]] = []
    for name, group in table(config, "config_groups").items():
        settings = _group(f"config_groups.{name}", group, default_format)
        targets += [(target, settings) for target in names(group, "targets")]
    # Names come before patterns, and patterns before the class Linear, which every quantized module has.
    targets.sort(key=lambda row: (row[0] == "Linear", row[0].startswith("re:")))
    groups = [(_target(target), settings) for target, settings in targets]
    ignored = [_target(name) for name in names(config, "ignore")]

    def of(module: str) -> Settings:
        if any(matches(module) for matches in ignored):
            return NOT_QUANTIZED
        for matches, settings in groups:
            if matches(module):
                return settings
        raise FormatError(f"config_groups: found targets {[name for name, _ in targets]}, expected one that matches it")

    return Scheme("compressed-tensors", of)


def _group(key: str, group: Any, default_format: Any) -> Settings:
    if not isinstance(group, dict):
        raise FormatError(f"{key}: found {group!r}, expected an object")
    weights = table(group, "weights")
    one_of(f"{key}.format", group.get("format") or default_format, ("pack-quantized",))
    one_of(f"{key}.weights.type", weights.get("type", "int"), ("int",))
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    one_of(f"{key}.weights.strategy", strategy, ("group", "channel"))
    size = integer(weights, "group_size") if strategy == "group" else -1
    return Settings(integer(weights, "num_bits"), size, bool(weights.get("symmetric", True)))


def _target(target: str) -> Callable[[str], Any]:
    if target.startswith("re:"):
        return pattern("targets or ignore", target[3:]).match
    return lambda module: target in (module, "Linear")
