"""The formats: one row each. The sizes stand here and in the shader's struct; programs compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Format:
    """A way to pack weights, as its own tool defines it.

    Attributes:
        name: the registry's key, and the struct's name in the shader ("q4_k", "gptq4").
        family: "gguf", "awq", "gptq" or "compressed_tensors" (pack-quantized).
        bits: bits of a code in a group format; 0 for GGUF.
        weights: weights of a GGUF block; 0 for the group formats.
        bytes: bytes of a GGUF block; 0 for the group formats.
        ggml_type: GGUF's number of the type; -1 for the group formats.
        table: what the shader calls the table that codes are looked up in, if it is a large one.
        table_words: its words of 32 bits, a multiple of 256.
    """

    name: str
    family: str
    bits: int = 0
    weights: int = 0
    bytes: int = 0
    ggml_type: int = -1
    table: str = ""
    table_words: int = 0

    @property
    def title(self) -> str:
        """The name its own tools print: "Q4_K", "GPTQ 4-bit"."""
        families = {"awq": "AWQ", "gptq": "GPTQ", "compressed_tensors": "compressed-tensors"}
        if self.family == "gguf":
            return self.name.upper()
        return f"{families[self.family]} {self.bits}-bit"

    @property
    def source(self) -> str:
        """The shader file below `metal/` that decodes it."""
        return f"formats/{self.family}/{self.name if self.family == 'gguf' else self.family}.metal"


_ROWS = (
    # name, weights a block, bytes a block, ggml type
    ("f32", 1, 4, 0),
    ("f16", 1, 2, 1),
    ("bf16", 1, 2, 30),
    ("q4_0", 32, 18, 2),
    ("q4_1", 32, 20, 3),
    ("q5_0", 32, 22, 6),
    ("q5_1", 32, 24, 7),
    ("q8_0", 32, 34, 8),
    ("q2_k", 256, 84, 10),
    ("q3_k", 256, 110, 11),
    ("q4_k", 256, 144, 12),
    ("q5_k", 256, 176, 13),
    ("q6_k", 256, 210, 14),
    ("iq1_s", 256, 50, 19),
    ("iq1_m", 256, 56, 29),
    ("iq2_xxs", 256, 66, 16),
    ("iq2_xs", 256, 74, 17),
    ("iq2_s", 256, 82, 22),
    ("iq3_xxs", 256, 98, 18),
    ("iq3_s", 256, 110, 21),
    ("iq4_nl", 32, 18, 20),
    ("iq4_xs", 256, 136, 23),
    ("tq1_0", 256, 54, 34),
    ("tq2_0", 256, 66, 35),
    ("mxfp4", 32, 17, 39),
    ("nvfp4", 64, 36, 40),
    ("q1_0", 128, 18, 41),
    ("q2_0", 64, 18, 42),
)

# Tables of the shaders that are worth a copy in threadgroup memory.
_TABLES: dict[str, tuple[str, int]] = {
    "iq1_s": ("iq1_grid", 1024),
    "iq1_m": ("iq1_grid", 1024),
    "iq2_xxs": ("iq2_xxs_grid", 512),
    "iq2_xs": ("iq2_xs_grid", 1024),
    "iq2_s": ("iq2_s_grid", 2048),
    "iq3_xxs": ("iq3_xxs_grid", 256),
    "iq3_s": ("iq3_s_grid", 512),
}

_FORMATS: dict[str, Format] = {
    name: Format(name, "gguf", 0, weights, size, number, *_TABLES.get(name, ("", 0)))
    for name, weights, size, number in _ROWS
}
_FORMATS["awq4"] = Format("awq4", "awq", bits=4)
for _prefix, _family in (("gptq", "gptq"), ("ct", "compressed_tensors")):
    for _bits in (2, 3, 4, 8):
        _FORMATS[f"{_prefix}{_bits}"] = Format(f"{_prefix}{_bits}", _family, bits=_bits)

_BY_GGML_TYPE = {row.ggml_type: row for row in _FORMATS.values() if row.family == "gguf"}


def formats() -> Mapping[str, Format]:
    """Every supported format by name, in the order of the README's table."""
    return MappingProxyType(_FORMATS)


def gguf_format(kind: str | int) -> Format | None:
    """The GGUF format of a name in any case ("Q4_K"), a `gguf.GGMLQuantizationType` or its number."""
    if isinstance(kind, str):
        row = _FORMATS.get(kind.lower())
        return row if row and row.family == "gguf" else None
    return _BY_GGML_TYPE.get(kind)
