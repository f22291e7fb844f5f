"""The quantized modules of a folder, the tensors that each consists of, and the layout that those are in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..errors import FormatError
from ..registry import FAMILIES
from ..weights import QuantizedWeight
from ..weights.bitfields import pack_octets
from ..weights.cut import Cut, Packing
from .cut_parts import cut_parts, packing_of
from .folder import Folder
from .layouts import awq, compressed_tensors, gptq, marlin, small_floats
from .parts import EXPONENTS, FLOAT8, FLOATS, Kind, Parts
from .schemes import Scheme
from .settings import Settings


@dataclass(frozen=True)
class Layout:
    """How a module's tensors are read.

    Attributes:
        tensors: what it has to hold, the codes first, and what kind each is of; None where the weight checks that.
        optional: what it may hold besides.
        read: makes the weight.
    """

    tensors: Mapping[str, Kind | None]
    optional: Mapping[str, Kind | None]
    read: Callable[[Parts, Settings], QuantizedWeight]


_WORDS, _SCALES, _OCTETS = Kind(("I32", "U32"), 2), Kind(FLOATS, 2), Kind(("U8",), 2)
_EXPONENTS, _FLOAT8S = Kind((*EXPONENTS,)), Kind((FLOAT8,), 2)
_PACKED: dict[str, Kind | None] = {"qweight": None, "scales": None, "qzeros": None}
_WORDS3: dict[str, Kind | None] = {"qweight": _WORDS, "scales": _SCALES, "qzeros": _WORDS}
_ZERO: dict[str, Kind | None] = {"weight_zero_point": Kind(("I8", "I32", FLOAT8, *FLOATS, *EXPONENTS))}
_FLOAT8_SCALES = dict.fromkeys(("weight_scale", "weight_scale_inv"), Kind((*FLOATS, *EXPONENTS)))

LAYOUTS = {
    "gptq": Layout({"qweight": None, "scales": None}, {"qzeros": None, "g_idx": None}, gptq.gptq),
    "gptq_p": Layout(_WORDS3, {"g_idx": None}, gptq.gptq_planar),
    "marlin": Layout({"B": _WORDS, "s": _SCALES}, {}, marlin.marlin),
    "awq": Layout(_PACKED, {"g_idx": None}, awq.awq),
    "awq_gemv": Layout(_WORDS3, {}, awq.awq_gemv),
    "awq_gemv_fast": Layout(
        {"qweight": Kind(("I16", "U16"), 2), "scales": _SCALES},
        {"qzeros": _SCALES, "scaled_zeros": _SCALES},
        awq.awq_gemv_fast,
    ),
    "awq_marlin": Layout({"qweight": _WORDS, "scales": _SCALES}, {"qzeros": None}, marlin.awq_marlin),
    "pack-quantized": Layout(
        {"weight_packed": _WORDS, "weight_scale": Kind(FLOATS), "weight_shape": Kind(("I64", "I32"))},
        {"weight_zero_point": Kind(("I32", "U32", "I8"), 2), "weight_g_idx": None},
        compressed_tensors.pack_quantized,
    ),
    "int-quantized": Layout(
        {"weight": Kind(("I8",), 2), "weight_scale": Kind(FLOATS)},
        {"weight_zero_point": Kind(("I8",)), "weight_g_idx": None},
        compressed_tensors.int_quantized,
    ),
    "float8": Layout({"weight": _FLOAT8S}, {**_FLOAT8_SCALES, **_ZERO}, small_floats.float8),
    "nvfp4": Layout(
        {"weight_packed": _OCTETS, "weight_scale": _FLOAT8S, "weight_global_scale": Kind(FLOATS)},
        _ZERO,
        small_floats.nvfp4,
    ),
    "modelopt_nvfp4": Layout(
        {"weight": _OCTETS, "weight_scale": _FLOAT8S, "weight_scale_2": Kind(FLOATS)}, _ZERO, small_floats.nvfp4
    ),
    "mxfp4": Layout({"weight_packed": Kind(("U8",)), "weight_scale": _EXPONENTS}, _ZERO, small_floats.mxfp4),
    "modelopt_mxfp4": Layout({"weight": Kind(("U8",)), "weight_scale": _EXPONENTS}, _ZERO, small_floats.mxfp4),
    "gpt-oss": Layout({"blocks": Kind(("U8",)), "scales": _EXPONENTS}, {}, small_floats.mxfp4),
}
# What only quantized activations and kernels use.
HARMLESS = (
    *("input_scale", "input_zero_point", "input_global_scale", "input_scale_ub", "activation_scale"),
    *("output_scale", "output_zero_point", "workspace"),
)
# What only some layouts have: beside the tensors of another one it would change the weights.
_MEANT = {part for layout in LAYOUTS.values() for part in (*layout.tensors, *layout.optional)} - {"weight"}
INT4 = "modelopt_int4"  # not read
# What a module holds in layouts that are not read.
_REFUSED = {
    "pre_quant_scale": "a scale of inputs (ModelOpt's AWQ)",
    "scale_packed": "Marlin's 2:4 sparse layout (marlin-24)",
    "bitmask": "a sparse layout",
    "absmax": "bitsandbytes' layout",
    "channel_scale": "a scale of inputs",
    "lora_A": "an adapter",
}


@dataclass(frozen=True)
class Module:
    """A quantized module: its tensors by their last names, how they are laid out, and why it cannot be read."""

    names: Mapping[str, str]
    layout: str
    settings: Settings


def packed_modules(folder: Folder, scheme: Scheme) -> dict[str, Module]:
    """The quantized modules by name. Each is checked to have all its tensors and to be quantized by the config."""
    held: dict[str, dict[str, str]] = {}
    for name in folder.tensors:
        module, _, part = name.rpartition(".")
        stem, _, last = name.rpartition("_")
        if last in ("blocks", "scales") and {f"{stem}_blocks", f"{stem}_scales"} <= folder.tensors.keys():
            module, part = stem, last
        held.setdefault(module, {})[part] = name
    modules: dict[str, Module] = {}
    for name, names in held.items():
        types = {part: folder.tensors[tensor].tensors[tensor].dtype for part, tensor in names.items()}
        kind = _kind(types, scheme.format)
        if not kind:
            continue
        where = f"{folder.path.name}: module {name!r}"
        try:
            settings = scheme.of(name)
        except FormatError as error:
            settings = Settings(refused=str(error))
        if not settings.quantized:
            raise FormatError(f"{where}: found {kind[0]}, expected it unquantized by the config")
        layout = kind[1] or settings.layout
        full = {part for part, tensor in names.items() if 0 not in folder.tensors[tensor].tensors[tensor].shape}
        unread = _unread(full, layout)
        if unread:
            settings = replace(settings, refused=settings.refused or unread)
        wanted = tuple(LAYOUTS[layout].tensors) if layout in LAYOUTS else ()
        wanted += ("qzeros",) if layout == "gptq" and not settings.symmetric and not settings.refused else ()
        missing = [part for part in wanted if part not in names]
        if missing and not unread:
            raise FormatError(f"{where}: found {kind[0]} without {', '.join(missing)}")
        used = (*wanted, *LAYOUTS[layout].optional, *HARMLESS) if layout in LAYOUTS else tuple(names)
        modules[name] = Module({part: names[part] for part in used if part in names}, layout, settings)
    return modules


def _unread(parts: set[str], layout: str) -> str:
    """Why a module that holds these tensors cannot be read; "" if nothing speaks against it."""
    for part, what in _REFUSED.items():
        if part in parts:
            return f"found {part}, {what}, which is not read"
    if layout == INT4:
        return "weight: found U8 with float scales (ModelOpt's 4-bit integers), which are not read"
    if layout not in LAYOUTS:
        return ""
    own = (*LAYOUTS[layout].tensors, *LAYOUTS[layout].optional)
    foreign = sorted(_MEANT & parts - {*own})
    return f"{foreign[0]}: found one, expected none beside {own[0]}" if foreign and own[0] in parts else ""


def _kind(types: Mapping[str, str], format: str) -> tuple[str, str] | None:
    """The name of a module's codes and its layout, as far as the types of its tensors tell; None without codes."""
    if "qweight" in types and format in ("gptq", "awq"):
        return "qweight", ""
    if {"B", "s"} <= types.keys() and format == "gptq":
        return "B", "marlin"
    if types.get("blocks") == "U8" and "scales" in types:
        return "blocks", "gpt-oss"
    if format in ("gptq", "awq"):
        return None
    scale = types.get("weight_scale", types.get("weight_scale_inv", ""))
    if "weight_packed" in types:
        if types["weight_packed"] != "U8":
            return "weight_packed", "pack-quantized"
        return "weight_packed", "mxfp4" if scale in EXPONENTS else "nvfp4"
    kind = types.get("weight")
    if not scale or kind is None or not (kind in ("I8", "U8") or kind.startswith("F8_")):
        return None
    if kind == "U8":
        return "weight", "modelopt_mxfp4" if scale in EXPONENTS else "modelopt_nvfp4" if scale == FLOAT8 else INT4
    return "weight", "int-quantized" if kind == "I8" else "float8"


def read(folder: Folder, name: str, module: Module, zero_points: str, cut: Cut | None = None) -> QuantizedWeight:
    """A quantized module, read from its files.

    Args:
        folder: where it is.
        name: the module's name.
        module: of `packed_modules`.
        zero_points: GPTQ's kind of zero points.
        cut: the rows or columns to read, by default all.

    Raises:
        FormatError: its settings or layout are not supported, its tensors do not fit each other, or it cannot be cut
            so.
    """
    settings = replace(module.settings, zero_points=zero_points)
    try:
        if settings.refused:
            raise FormatError(settings.refused)
        layout, parts = LAYOUTS[module.layout], Parts(folder, module.names)
        for part, kind in {**layout.tensors, **layout.optional}.items():
            if kind is not None and part in parts:
                parts.check(part, kind)
        if cut is None:
            return layout.read(parts, settings)
        if own := cut_parts(parts, module.layout, settings, cut):
            return layout.read(own, settings)
        return layout.read(parts, settings).cut(cut)
    except FormatError as error:
        raise FormatError(f"{folder.path.name}: module {name!r}: {error}") from None


def packing(folder: Folder, modules: Mapping[str, Module], name: str) -> Packing | None:
    """How a module can be cut; None for a tensor that is no module's."""
    module = modules.get(name)
    return module and packing_of(Parts(folder, module.names), module.layout, module.settings)


def find_zero_points(folder: Folder, modules: Mapping[str, Module], label: str) -> str:
    """GPTQ's kind of zero points: the label's, unless the data of a symmetric module says otherwise.

    The zero point of symmetric codes is 2**(bits - 1). v2 stores it unchanged, v1 minus one. Some
    tools write one kind and label it as the other.
    """
    for module in modules.values():
        bits = module.settings.bits
        known = module.layout == "gptq" and bits in FAMILIES["gptq"].bits and "qzeros" in module.names
        if not known or not module.settings.symmetric or module.settings.refused:
            continue
        zeros = np.asarray(folder.read(module.names["qzeros"]).reshape(-1).view(mx.uint8))
        zeros = zeros[: zeros.size // bits * bits].reshape(-1, bits)  # eight codes a row
        if not zeros.size:
            continue
        for kind, stored in (("v2", 2 ** (bits - 1)), ("v1", 2 ** (bits - 1) - 1)):
            eight = pack_octets(np.full(8, stored), bits)
            if kind != label and np.all(zeros == eight):
                warnings.warn(
                    f"{folder.path}: labelled as GPTQ {label}, but its symmetric zero points are stored as {stored}, "
                    f"which is {kind}: decoding it as {kind}. Pass zero_points={label!r} to keep the label.",
                    UserWarning,
                    stacklevel=4,
                )
                return kind
        return label
    return label
