"""The formats and their families, one row each.

Sizes are here and in the shader's struct, and every kernel source checks that the two agree. Anything else that
kernels need to know of a format is a trait in its shader file, which `Format.traits` reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

METAL = Path(__file__).parent / "metal"


@dataclass(frozen=True)
class Family:
    """Formats that store weights in the same arrays and share a loader.

    Attributes:
        name: its folder below `metal/formats`, and the name of its loader function.
        title: the name that its own tools print.
        arrays: name and element type of each array, in the loader's order; S is the type of the scales.
        codes: the array of codes, for families with groups; "" for GGUF.
        prefix: a format's name without its bits.
        bits: the bits of its formats; () for GGUF, whose formats have rows of their own.
        tensors: what a module of a checkpoint has to hold, by the checkpoint's names, the codes first.
        optional: what it may hold besides.
    """

    name: str
    title: str
    arrays: tuple[tuple[str, str], ...]
    codes: str = ""
    prefix: str = ""
    bits: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def layout(self) -> str:
        """ "KN" where a stored row is an input, "NK" where it is an output: as the loader says."""
        return "KN" if self.traits["layout_kn"] else "NK"

    @property
    def checkpoint(self) -> str:
        """The name of the format in a checkpoint's config: "compressed-tensors"."""
        return self.title.lower()

    @cached_property
    def traits(self) -> Mapping[str, int]:
        """The numbers of the loader's struct: rows_per_thread, qvm_rows, qvm_columns, layout_kn."""
        file = "loader" if self.name == "gguf" else self.name
        return _traits(METAL / "formats" / self.name / f"{file}.metal", f"{self.name}_loader")


_FAMILIES = (
    Family("gguf", "GGUF", (("blocks", "uint8_t"),)),
    Family(
        name="awq",
        title="AWQ",
        arrays=(("qweight", "int"), ("qzeros", "int"), ("scales", "S")),
        codes="qweight",
        prefix="awq",
        bits=(4,),
        tensors=("qweight", "scales", "qzeros"),
    ),
    Family(
        name="gptq",
        title="GPTQ",
        arrays=(("qweight", "int"), ("qzeros", "int"), ("scales", "S"), ("g_idx", "int")),
        codes="qweight",
        prefix="gptq",
        bits=(2, 3, 4, 8),
        tensors=("qweight", "scales", "qzeros"),
        optional=("g_idx",),
    ),
    Family(
        name="compressed_tensors",
        title="compressed-tensors",
        arrays=(("codes", "int"), ("scales", "S"), ("zeros", "int"), ("g_idx", "int")),
        codes="codes",
        prefix="ct",
        bits=(2, 3, 4, 8),
        tensors=("weight_packed", "weight_scale", "weight_shape"),
        optional=("weight_zero_point", "weight_g_idx"),
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})


@dataclass(frozen=True)
class Format:
    """A way to quantize weights, as its own tool defines it.

    Attributes:
        name: the registry's key, and the struct's name in the shader ("q4_k", "gptq4").
        family: "gguf", "awq", "gptq" or "compressed_tensors" (pack-quantized).
        bits: bits of a code in a group format; 0 for GGUF.
        weights: weights of a GGUF block; 0 for the group formats.
        bytes: bytes of a GGUF block; 0 for the group formats.
        ggml_type: GGUF's number of the type; -1 for the group formats.
        stored: the float type of its plain values ("float16" for F16); "" for a quantized format.
    """

    name: str
    family: str
    bits: int = 0
    weights: int = 0
    bytes: int = 0
    ggml_type: int = -1
    stored: str = ""

    @property
    def title(self) -> str:
        """The name that its own tools print: "Q4_K", "GPTQ 4-bit"."""
        return self.name.upper() if self.family == "gguf" else f"{FAMILIES[self.family].title} {self.bits}-bit"

    @property
    def source(self) -> str:
        """The shader file below `metal/` that decodes it."""
        return f"formats/{self.family}/{self.name if self.family == 'gguf' else self.family}.metal"

    @property
    def code_bits(self) -> float:
        """Bits per weight, without the scales of groups."""
        return self.bits or 8 * self.bytes / self.weights

    @cached_property
    def traits(self) -> Mapping[str, int]:
        """The numbers of the shader's struct: scale_block, exact_block, lut_words, ..."""
        return _traits(METAL / self.source, self.name)

    @cached_property
    def table(self) -> str:
        """The name of its lookup table in `metal/formats/tables`, if that is a large one; else ""."""
        if "lut_words" not in self.traits:
            return ""
        return "iq1" if self.name in ("iq1_s", "iq1_m") else self.name


def _traits(file: Path, struct: str) -> Mapping[str, int]:
    """The first enum of a struct in a shader file, by name."""
    match = re.search(rf"struct {struct} \{{[^}}]*?enum \{{(.*?)\}}", file.read_text(), re.DOTALL)
    if match is None:
        raise ValueError(f"{file.name}: found no enum in struct {struct}")
    return MappingProxyType({name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", match[1])})


_GGUF = (
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

# The formats of plain floats.
_STORED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

_FORMATS: dict[str, Format] = {
    **{
        name: Format(name, "gguf", 0, weights, size, number, _STORED.get(name, ""))
        for name, weights, size, number in _GGUF
    },
    **{
        f"{family.prefix}{bits}": Format(f"{family.prefix}{bits}", family.name, bits)
        for family in FAMILIES.values()
        for bits in family.bits
    },
}


def formats() -> Mapping[str, Format]:
    """Every supported format by name, in the order of the README's table."""
    return MappingProxyType(_FORMATS)


@cache
def _by_ggml_type() -> dict[int, Format]:
    return {row.ggml_type: row for row in _FORMATS.values() if row.family == "gguf"}


def gguf_format(kind: str | int) -> Format | None:
    """The GGUF format of a name in any case ("Q4_K"), a `gguf.GGMLQuantizationType` or its number."""
    if isinstance(kind, str):
        row = _FORMATS.get(kind.lower())
        return row if row and row.family == "gguf" else None
    return _by_ggml_type().get(kind)
