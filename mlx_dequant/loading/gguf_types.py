"""The numbers of tensor types in GGUF files: the registry's formats, plain numbers, and types with no reader here."""

from __future__ import annotations

from dataclasses import dataclass

from ..registry import Format, formats, gguf_format


@dataclass(frozen=True)
class TensorType:
    """A type of tensors.

    Attributes:
        number: as the file has it.
        title: the name that ggml prints; its number if that is all that is known.
        weights: weights of a block; 0 if unknown.
        bytes: bytes of a block; 0 if unknown.
        format: the row of `mlx_dequant.formats()`, if it has one.
        plain: NumPy's name of a plain number, "i4" for I32; "" for others.
    """

    number: int
    title: str
    weights: int = 0
    bytes: int = 0
    format: Format | None = None
    plain: str = ""

    @property
    def readable(self) -> bool:
        return self.format is not None or bool(self.plain)

    @property
    def missing(self) -> str:
        """Why a tensor of this type cannot be read: what was found, and what is read."""
        known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
        note = _NOTES.get(self.number, "")
        return f"found type {self.title}{note and f' ({note})'}, expected one of {known}, {', '.join(_PLAIN_TITLES)}"


_PLAIN = {24: ("I8", "i1"), 25: ("I16", "i2"), 26: ("I32", "i4"), 27: ("I64", "i8"), 28: ("F64", "f8")}
_PLAIN_TITLES = [title for title, _ in _PLAIN.values()]

# ggml's types that have no reader here, and those that it removed.
_NAMED = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
_REPACKED = (
    "type {}, removed from ggml: requantize from the original, or take a {} file, which llama.cpp repacks itself"
)
_NOTES = {
    4: "type 4, removed from ggml; Ollama's first gpt-oss files have MXFP4 under this number: pull the model again",
    5: "type 5, removed from ggml",
    9: "ggml's type of activations",
    15: "ggml's type of activations",
    **{number: _REPACKED.format(number, "Q4_0") for number in (31, 32, 33)},
    **{number: _REPACKED.format(number, "IQ4_NL") for number in (37, 38)},
    36: f"{_REPACKED.format(36, 'IQ4_NL')}; BitNet's I2_S has this number too",
}


def tensor_type(number: int) -> TensorType:
    """The type with a number. An unknown one has its number as its title."""
    form = gguf_format(number)
    if form is not None:
        return TensorType(number, form.title, form.weights, form.bytes, form)
    if number in _PLAIN:
        title, plain = _PLAIN[number]
        return TensorType(number, title, 1, int(plain[1]), plain=plain)
    return TensorType(number, _NAMED.get(number, str(number)))
