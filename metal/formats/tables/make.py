"""Writes the IQ tables beside it from the grids of gguf-py: `python metal/formats/tables/make.py`."""

from pathlib import Path

import gguf.quants as quants
import numpy as np

HERE = Path(__file__).parent


def write(name: str, comment: str, declaration: str, values: list[str]) -> None:
    lines = [", ".join(values[i : i + 8]) for i in range(0, len(values), 8)]
    body = ",\n    ".join(lines)
    head = f"// {comment} Made by make.py.\n// clang-format off\n"
    text = f"{head}\nTABLE {declaration}[{len(values)}] = {{\n    {body},\n}};\n"
    (HERE / f"{name}.metal").write_text(text)


def grid(cls: type) -> np.ndarray:
    cls.init_grid()
    return cls.grid.reshape(-1, cls.grid.shape[-1]).astype(np.int64)


def words(entries: np.ndarray) -> list[str]:
    """Each four values as the bytes of a word, the first lowest."""
    shifts = 8 * np.arange(4)
    return [f"0x{word:08x}" for word in (entries.reshape(-1, 4) << shifts).sum(axis=1)]


for name in ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"):
    entries = grid(getattr(quants, name.upper()))
    count, width = entries.shape
    per = "two words" if width == 8 else "a word"
    write(name, f"{count} entries of {width} values, a byte each, {per} an entry.", f"uint {name}_grid", words(entries))

ternary = (grid(quants.IQ1_S) + 1) << (2 * np.arange(8))
write("iq1", "2048 entries of 8 values -1, 0, 1, each plus one in two bits.", "ushort iq1_grid",
      [f"0x{code:04x}" for code in ternary.sum(axis=1)])  # fmt: skip

write("iq4", "The 16 values of IQ4_NL and IQ4_XS.", "int8_t iq4_values", [str(v) for v in quants.IQ4_NL.kvalues])
