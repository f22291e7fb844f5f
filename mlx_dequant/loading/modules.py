"""The quantized modules of a folder, and the tensors that each consists of."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from ..errors import FormatError
from ..registry import FAMILIES, Family
from ..weights import QuantizedWeight, weight_class
from .folder import Folder
from .schemes import Scheme
from .settings import Settings


def _family(format: str) -> Family:
    """The family of a checkpoint's format."""
    return next(family for family in FAMILIES.values() if family.checkpoint == format)


def packed_modules(folder: Folder, scheme: Scheme) -> dict[str, Settings]:
    """The quantized modules by name. Each is checked to have all its tensors and to be quantized by the config."""
    codes, *required = _family(scheme.format).tensors
    modules: dict[str, Settings] = {}
    for name in folder.tensors:
        module, dot, part = name.rpartition(".")
        if part != codes:
            continue
        missing = [name for name in required if module + dot + name not in folder.tensors]
        if missing:
            raise FormatError(f"{folder.path.name}: module {module!r}: found {codes} without {', '.join(missing)}")
        try:
            modules[module] = scheme.of(module)
        except FormatError as error:
            raise FormatError(f"{folder.path.name}: module {module!r}: {error}") from None
        if not modules[module].quantized:
            raise FormatError(
                f"{folder.path.name}: module {module!r}: found {codes}, expected it unquantized by the config"
            )
    return modules


def parts(format: str, modules: Iterable[str]) -> set[str]:
    """The names of the tensors of quantized modules."""
    family = _family(format)
    return {_join(module, part) for module in modules for part in (*family.tensors, *family.optional)}


def read(folder: Folder, format: str, module: str, settings: Settings, zero_points: str) -> QuantizedWeight:
    """A quantized module, read from its files."""
    family = _family(format)
    present = [part for part in (*family.tensors, *family.optional) if _join(module, part) in folder.tensors]
    tensors = {part: folder.read(_join(module, part)) for part in present}
    kind = {"zero_points": zero_points} if format == "gptq" else {}
    try:
        make = weight_class(family.name)
        return make(**tensors, bits=settings.bits, group_size=settings.group_size, **kind)
    except FormatError as error:
        raise FormatError(f"{folder.path.name}: module {module!r}: {error}") from None


def find_zero_points(folder: Folder, modules: dict[str, Settings], label: str) -> str:
    """GPTQ's kind of zero points: the label's, unless the data of a symmetric module says otherwise.

    The zero point of symmetric codes is 2**(bits - 1). v2 stores it unchanged, v1 minus one. Some
    tools write one kind and label it as the other.
    """
    for module, settings in modules.items():
        bits = settings.bits
        if not settings.symmetric or bits not in FAMILIES["gptq"].bits:
            continue
        zeros = np.asarray(folder.read(_join(module, "qzeros")).reshape(-1).view(mx.uint8))
        zeros = zeros[: zeros.size // bits * bits].reshape(-1, bits)  # eight codes a row
        for kind, stored in (("v2", 2 ** (bits - 1)), ("v1", 2 ** (bits - 1) - 1)):
            eight = np.packbits([stored >> bit & 1 for bit in range(bits)] * 8, bitorder="little")
            if kind != label and zeros.size and np.all(zeros == eight):
                warnings.warn(
                    f"{folder.path}: labelled as GPTQ {label}, but its symmetric zero points are stored as {stored}, "
                    f"which is {kind}: decoding it as {kind}. Pass zero_points={label!r} to keep the label.",
                    UserWarning,
                    stacklevel=4,
                )
                return kind
        return label
    return label


def _join(module: str, part: str) -> str:
    return f"{module}.{part}" if module else part
