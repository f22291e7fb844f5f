"""Quantization configs: the format of a folder, and the settings of each of its modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import FormatError
from .settings import NOT_QUANTIZED, Settings, flat, integer, names, one_of, pattern, stated, table

ZERO_POINTS = {"gptq": "v1", "gptq_v2": "v2", "gptq_p": "v2", "marlin": "v2"}
# Layouts of AWQ; some of AutoAWQ's names are kernels for the same one.
AWQ = {
    **dict.fromkeys(("gemm", "exllama", "exllamav2", "exllama_v2", "ipex"), "awq"),
    "gemv": "awq_gemv",
    **dict.fromkeys(("gemv_fast", "gemvfast", "llm-awq", "llm_awq"), "awq_gemv_fast"),
    "marlin": "awq_marlin",
}
# auto-round's names, without its own and without kernels: the format, and how zero points are stored.
AUTO_ROUND = {
    "auto": ("gptq", "v1"),
    "gptq": ("gptq", "v1"),
    "auto_gptq": ("gptq", "v1"),
    "gptqmodel": ("gptq", "v2"),
    "": ("gptq", "v2"),
    "awq": ("awq", ""),
    "auto_awq": ("awq", ""),
    "autoawq": ("awq", ""),
}
KERNELS = "exllamav2|exllamav1|exllama|tritonv2|triton|marlin|cuda|torch|gemm|ipex|hpu|cpu"
COMPRESSED = (
    *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized"),
    *("mxfp4-pack-quantized", "mxfp8-quantized"),
)
# Names of embeddings: a folder does not say which classes its modules have.
EMBEDDINGS = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe)$", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """A folder's format ("gptq", "awq", "compressed-tensors", "fp8", ...), the settings of a module by its name, and
    GPTQ's kind of zero points."""

    format: str
    of: Callable[[str], Settings]
    zero_points: str = ""


def scheme(config: dict[str, Any]) -> Scheme:
    """Reads a quantization config.

    Raises:
        FormatError: the method or its variant is not supported, or a setting is not valid.
    """
    readers = {
        "gptq": _gptq,
        "awq": _awq,
        "compressed-tensors": _compressed_tensors,
        "auto-round": _auto_round,
        "fp8": _by_tensors,
        "fbgemm_fp8": _by_tensors,
        "mxfp4": _by_tensors,
        "modelopt": _by_tensors,
    }
    found = method(config)
    if found not in readers:
        raise FormatError(f"quant_method: found {found!r}, expected {' or '.join(map(repr, readers))}")
    return readers[found](config)


def method(config: dict[str, Any]) -> str | None:
    """The name of a quantization config's method, by its other keys where it does not say; None if nothing tells."""
    found = config.get("quant_method", config.get("method"))
    if found is not None:
        name = str(found).lower().removeprefix("intel/")
        known = {"auto_round": "auto-round", "compressed_tensors": "compressed-tensors", "gptq_marlin": "gptq"}
        return "modelopt" if name.startswith("modelopt") else known.get(name, name)
    if "w_bit" in config:
        return "awq"  # AutoAWQ's own file
    if {"bits", "group_size", "desc_act"} <= config.keys():
        return "gptq"  # AutoGPTQ's
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & config.keys() else None


def _gptq(config: dict[str, Any]) -> Scheme:
    kind = stated(config, ("checkpoint_format", "format"), "gptq")
    kind = "marlin" if config.get("is_marlin_format") else kind
    one_of("checkpoint_format", kind, tuple(ZERO_POINTS))
    one_of("pack_dtype", config.get("pack_dtype", "int32"), ("int32", "torch.int32"))
    layout = {"gptq_v2": "gptq"}.get(kind, kind)
    return Scheme("gptq", _with_layout(config, layout), ZERO_POINTS[kind])


def _with_layout(config: dict[str, Any], layout: str) -> Callable[[str], Settings]:
    """The settings of modules. GPTQ's codes of 5, 6 and 7 bits are always planar."""
    rules = _rules(config)

    def of(module: str) -> Settings:
        settings = rules(module)
        planar = layout == "gptq" and settings.bits in (5, 6, 7)
        return replace(settings, layout="gptq_p" if planar else layout)

    return of


def _awq(config: dict[str, Any]) -> Scheme:
    version = stated(config, ("version", "checkpoint_format", "format"), "gemm")
    one_of("AWQ version", version, tuple(AWQ))
    return Scheme("awq", _with_layout(config, AWQ[version]))


def _by_tensors(config: dict[str, Any]) -> Scheme:
    """Methods whose tensors tell how they are laid out: FP8, gpt-oss's MXFP4, ModelOpt."""
    block = config.get("weight_block_size")
    settings = Settings(bits=8, block=None if block is None else _pair("weight_block_size", block))
    return Scheme(str(method(config)), lambda module: settings)


def _auto_round(config: dict[str, Any]) -> Scheme:
    packing = config.get("packing_format") or config.get("backend") or "auto"
    # Old releases put the kernel behind the layout, and some left their own name out: gptq:exllamav2.
    layout = re.sub("^auto[-_]round(:|$)", "", str(packing))
    layout = re.sub(rf"(:|^)({KERNELS})$", "", layout)
    one_of("packing_format", layout if layout in AUTO_ROUND else packing, tuple(AUTO_ROUND))
    one_of("data_type", config.get("data_type", "int"), ("int",))
    form, zero_points = AUTO_ROUND[layout]
    return Scheme(form, _with_layout(config, form), zero_points)


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
    one_of("sparsity_config.format", table(config, "sparsity_config").get("format") or "dense", ("dense",))
    if default_format is not None:  # without one, the tensors tell
        one_of("format", default_format, (*COMPRESSED, "mixed-precision"))
    _check_rotations(table(config, "transform_config"))
    targets: dict[str, Settings] = {}
    for name, group in table(config, "config_groups").items():
        try:
            settings = _group(f"config_groups.{name}", group, default_format)
        except FormatError as error:  # it closes only the modules of its group
            settings = Settings(refused=str(error))
        group = group if isinstance(group, dict) else {}
        targets |= dict.fromkeys(names(group, "targets"), settings)
    # As compressed-tensors does: names come before patterns, patterns by the alphabet, and then classes. Linear is the
    # class of any module without another.
    order = sorted(targets, key=lambda name: (name == "Linear", name == "Embedding", name.startswith("re:"), name))
    groups = [(_target(target), targets[target]) for target in order]
    ignored = [_target(name) for name in names(config, "ignore")]

    def of(module: str) -> Settings:
        if any(matches(module) for matches in ignored):
            return NOT_QUANTIZED
        for matches, settings in groups:
            if matches(module):
                return settings
        raise FormatError(f"config_groups: found targets {order}, expected one that matches it")

    return Scheme("compressed-tensors", of)


def _check_rotations(config: dict[str, Any]) -> None:
    """Refuses rotations that the model would have to undo. Those of weights are in the weights already."""
    groups = config.get("config_groups") or {}
    for group in groups.values() if isinstance(groups, dict) else [groups]:
        for each in (isinstance(group, dict) and group.get("apply")) or [group]:
            place = each.get("location") if isinstance(each, dict) else None
            if place not in ("weight_input", "weight_output"):
                raise FormatError(
                    f"transform_config: found rotations of {place or each!r}, expected only those of weight_input and "
                    "weight_output: the model would have to undo the others"
                )


def _group(key: str, group: Any, default_format: Any) -> Settings:
    if not isinstance(group, dict):
        raise FormatError(f"{key}: found {group!r}, expected an object")
    weights = table(group, "weights")
    kind = group.get("format") or default_format
    if kind is not None:
        one_of(f"{key}.format", kind, COMPRESSED)
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    size = integer(weights, "group_size") if strategy == "group" else -1
    if kind == "pack-quantized":
        one_of(f"{key}.weights.type", weights.get("type", "int"), ("int",))
        one_of(f"{key}.weights.strategy", strategy, ("group", "channel"))
    block = weights.get("block_structure")
    if isinstance(block, str):  # older releases: "128x128"
        block = [int(n) if n.isdecimal() else n for n in block.split("x")]
    shape = None if block is None else _pair(f"{key}.weights.block_structure", block)
    act_order = weights.get("actorder") in (True, "group", "dynamic")
    symmetric = bool(weights.get("symmetric", True))
    return Settings(integer(weights, "num_bits"), size, symmetric, act_order=act_order, block=shape)


def _pair(key: str, value: Any) -> tuple[int, int]:
    if not (isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)):
        raise FormatError(f"{key}: found {value!r}, expected two lengths")
    return value[0], value[1]


def _target(target: str) -> Callable[[str], Any]:
    if target.startswith("re:"):
        return pattern("targets or ignore", target[3:]).match
    if target == "Embedding":
        return EMBEDDINGS.search
    return lambda module: target in (module, "Linear")
