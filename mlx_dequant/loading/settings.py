"""Settings of a quantized module, and checked reads of a quantization config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import FormatError
from .patterns import Pattern


@dataclass(frozen=True)
class Settings:
    """How a module is quantized.

    Attributes:
        quantized: False if a rule excludes the module.
        layout: how its tensors are laid out, where their names and types do not tell.
        zero_points: GPTQ's kind of zero points; "" for the default.
        act_order: whether groups come in any order, which a tensor has to tell (GPTQ's `desc_act`).
        block: rows and columns that share a scale, if the config says.
        refused: why it cannot be read; "" if it can.
    """

    bits: int = 0
    group_size: int = -1
    symmetric: bool = True
    quantized: bool = True
    layout: str = ""
    zero_points: str = ""
    act_order: bool = False
    block: tuple[int, int] | None = None
    refused: str = ""


NOT_QUANTIZED = Settings(bits=16, group_size=-1, symmetric=True, quantized=False)


def flat(config: Any, base: Settings | None = None) -> Settings:
    """The settings of a flat config. Settings that it lacks come from `base`."""
    if not isinstance(config, dict):
        raise FormatError(f"quantization settings: found {config!r}, expected an object")
    # AutoAWQ's own file names them w_bit and q_group_size.
    known = {"bits": base.bits, "group_size": base.group_size, "sym": base.symmetric} if base else {"sym": True}
    known |= {new: config[old] for new, old in (("bits", "w_bit"), ("group_size", "q_group_size")) if old in config}
    known |= config
    bits = integer(known, "bits")
    act_order = bool(config.get("desc_act")) and not config.get("static_groups")
    if base and "desc_act" not in config:
        act_order = base.act_order
    return Settings(bits, integer(known, "group_size"), bool(known["sym"]), bits < 16, act_order=act_order)


def integer(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int:
        raise FormatError(f"{key}: found {value!r}, expected an integer")
    return value


def table(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise FormatError(f"{key}: found {value!r}, expected an object")
    return value


def names(config: dict[str, Any], key: str) -> list[str]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{key}: found {value!r}, expected a list of names")
    return value


def pattern(key: str, text: str) -> Pattern:
    try:
        return Pattern(text)
    except FormatError as error:
        raise FormatError(f"{key}: {error}") from None


def stated(config: dict[str, Any], keys: tuple[str, ...], default: str) -> str:
    """What keys of one meaning say, in small letters."""
    found = {key: str(config[key]).lower() for key in keys if config.get(key)}
    first = next(iter(found), "")
    for key, value in found.items():
        if value != found[first]:
            raise FormatError(f"{key}: found {config[key]!r}, expected {config[first]!r}, as {first} says")
    return found.get(first, default)


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise FormatError(f"{key}: found {value!r}, expected {' or '.join(map(repr, allowed))}")
