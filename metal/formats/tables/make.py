"""Writes the lookup tables from the grids of gguf-py: `python metal/formats/tables/make.py [folder]`."""

import sys
from pathlib import Path

import gguf.quants as quants
import numpy as np


def table(comment: str, declaration: str, values: list[str]) -> str:
    lines = [", ".join(values[i : i + 8]) for i in range(0, len(values), 8)]
    body = ",\n    ".join(lines)
    head = f"// {comment} Made by make.py.\n// clang-format off\n"
    return f"{head}\nTABLE {declaration}[{len(values)}] = {{\n    {body},\n}};\n"


def grid(cls: type) -> np.ndarray:
    cls.init_grid()
    return cls.grid.reshape(-1, cls.grid.shape[-1]).astype(np.int64)


def words(entries: np.ndarray) -> list[str]:
    """Packs each four values into a word, the first into the lowest byte."""
    shifts = 8 * np.arange(4)
    return [f"0x{word:08x}" for word in (entries.reshape(-1, 4) << shifts).sum(axis=1)]


def tables() -> dict[str, str]:
    """The text of each table by the name of its file."""
    texts = {}
    for name in ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"):
        entries = grid(getattr(quants, name.upper()))
        count, width = entries.shape
        per = "two words" if width == 8 else "a word"
        comment = f"{count} entries of {width} values, a byte each, {per} an entry."
        texts[name] = table(comment, f"uint {name}_grid", words(entries))
    ternary = ((grid(quants.IQ1_S) + 1) << (2 * np.arange(8))).sum(axis=1)
    comment = "2048 entries of 8 values -1, 0, 1, each stored plus one in two bits."
    texts["iq1"] = table(comment, "ushort iq1_grid", [f"0x{code:04x}" for code in ternary])
    values = [str(value) for value in quants.IQ4_NL.kvalues]
    texts["iq4"] = table("The 16 values of IQ4_NL and IQ4_XS.", "int8_t iq4_values", values)
    return texts


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in tables().items():
        (folder / f"{name}.metal").write_text(text)
