"""What products may cost, and what is aimed at: `limits.json`, the one table, which only tightens.

A row is a product of up to M rows of x with a format's weights, and has for each number its aim and its limit. A limit
is the aim or, where that is not met yet, what was reached. `spilling` has the kernels that spill; the aim is none.
Limits began anew five times. qvm's became at most 1 % higher (GPTQ's 3 bits with g_idx 6 % at M = 8) when it came to
split K within a threadgroup only. When codes became numbers through halves and a row of x was loaded first, 298 numbers
fell and 78 rose: by at most 23 %, but for the instructions of compressed-tensors' 3 bits (71 %; they spilled before)
and the loads of TQ1_0 (67 %). When addresses took the run of 32 weights first, qvm kept 4 rows of x at most (for no
spills) and MXFP4 did without its table, products with one row took up to 37 % fewer instructions; 37 numbers rose,
nearly all of 4 and 8 rows of x, by at most 4.3 %, but for the registers of IQ3_S at M = 2 (13 %). When places in x
and in the matrix became numbers of 32 bits, 4 rows of x took 32 columns at once: 14 to 25 % fewer instructions there,
and 182 to 216 registers where 158 to 208 were. Seven other numbers rose: IQ1_S's instructions by 2.6 %, the registers
of IQ2_XXS and IQ3_XXS at M = 2 by 15 %, and loads by at most 14 %. When an expert's places became numbers of 32 bits,
lanes read four rows of the matrix with two rows of x and 32 columns with eight, and qvm took eight rows of x a pass:
instructions for more rows of x fell in 46 products and rose in 8, plain floats but for two, by at most 8.7 %. These
take more registers in 74 products, by at most 55 %, and GPTQ at M = 4 up to 82 % more loads. For one row of x only the
instructions of plain floats rose, by at most 4.3 %. When tables of IQ types became arrays, IQ3_XXS took two registers
more at M = 2 (1.3 %), and 19 other numbers fell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_dequant.registry import FAMILIES, Format, formats

TABLE = Path(__file__).with_name("limits.json")

REGISTERS = 128  # 832 threads a core; 104 leave 1024
CODE_BYTES = 8192
# Instructions a weight for one row of x, by format, and for others by MLX's bits: what its qmv takes, or near it.
_INSTRUCTIONS = {
    **dict.fromkeys(("q4_0", "awq4", "gptq4", "ct4"), 4.5),
    **dict.fromkeys(("q2_k", "q3_k", "iq4_xs", "mxfp4"), 6.0),
    **{"q4_k": 5.4, "iq3_s": 8.5, "q8_0": 4.3},
}
_BY_BITS = {2: 4.3, 3: 5.3, 4: 4.5, 5: 6.3, 6: 7.0, 8: 4.3}
_WITH_G_IDX = 8.0
_MEMORY = {2: 0.25, 3: 0.313, 4: 0.25, 5: 0.375, 6: 0.563, 8: 0.563}
_MEMORY_WITH_G_IDX = 0.5
# More rows of x, as times one row: 6.5, 9 and 15 instructions for 4 bits.
_MORE_ROWS = {1: 1.0, 2: 6.5 / 4.5, 4: 9 / 4.5, 8: 15 / 4.5}
_WITH_TABLES = ("iq", "mxfp4", "nvfp4")


def bits(form: Format) -> int:
    """MLX's width that a format is compared with; 0 for plain floats."""
    return 0 if form.stored else max((width for width in _BY_BITS if width <= form.code_bits), default=2)


def aims(form: Format, has_g_idx: bool, M: int) -> dict[str, float]:
    """What is aimed at for a linear layer's product; nothing where nobody said."""
    found: dict[str, float] = {}
    if M == 1:
        found.update(registers=REGISTERS, code_bytes=CODE_BYTES)
    if bits(form):
        instructions = _WITH_G_IDX if has_g_idx else _INSTRUCTIONS.get(form.name, _BY_BITS[bits(form)])
        found["instructions_per_weight"] = round(instructions * _MORE_ROWS[M], 2)
        if M == 1 and not form.name.startswith(_WITH_TABLES):
            found["memory_instructions_per_weight"] = _MEMORY_WITH_G_IDX if has_g_idx else _MEMORY[bits(form)]
    return found


NUMBERS = ("registers", "instructions_per_weight", "memory_instructions_per_weight", "code_bytes")


def reached(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The worst of each product's programs: what a linear layer launches, with few rows of x."""
    for form in formats().values():
        plain = "qvm" if FAMILIES[form.family].layout == "KN" else "qmv"
        for kernel, has_g_idx in ((plain, False), (f"{plain} permuted", True)):
            for M in _MORE_ROWS:
                key = {"kernel": kernel, "format": form.name, "has_g_idx": has_g_idx, "M": M}
                those = [row for row in rows if key.items() <= row.items()]
                if those:
                    yield {**key, **{name: max(row[name] for row in those) for name in NUMBERS}}


def spilling(rows: list[dict[str, Any]]) -> list[str]:
    """The kernels of which a program spills or uses scratch."""
    return sorted({name(row) for row in rows if row["spills"] or row["scratch"]})


def name(row: dict[str, Any]) -> str:
    rows_of_x = f" M={row['M']}" if row["M"] else ""
    return f"{row['format']}{' g_idx' if row['has_g_idx'] else ''} {row['kernel']}{rows_of_x}".lstrip()


def read() -> dict[str, Any]:
    return json.loads(TABLE.read_text())


def tightened(rows: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """The table after `rows` were measured: no limit is looser than it was in `before`."""
    limits = {_key(row): row["limits"] for row in before["products"]}
    products = []
    for row in reached(rows):
        aim = aims(formats()[row["format"]], row["has_g_idx"], row["M"])
        # Code may grow where nobody aims at less, and memory instructions of formats with tables stay what they are.
        found = {
            number: min(limits.get(_key(row), {}).get(number, float("inf")), max(row[number], aim.get(number, 0)))
            for number in NUMBERS
            if number in aim or number != "code_bytes"
        }
        products.append({**{field: row[field] for field in _KEY}, "aims": aim, "limits": found})
    allowed = spilling(rows)
    if before["products"]:
        allowed = [one for one in allowed if one in before["spilling"]]
    return {"products": products, "spilling": allowed}


_KEY = ("kernel", "format", "has_g_idx", "M")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[field] for field in _KEY)


def write(rows: list[dict[str, Any]]) -> None:
    """Tightens the table."""
    table = tightened(rows, read() if TABLE.is_file() else {"products": [], "spilling": []})
    lines = {part: ",\n".join(json.dumps(row) for row in table[part]) for part in table}
    TABLE.write_text("{\n" + ",\n".join(f'"{part}": [\n{text}\n]' for part, text in lines.items()) + "\n}\n")


def broken(rows: list[dict[str, Any]], table: dict[str, Any]) -> list[str]:
    """What is over its limit."""
    limits = {_key(row): row["limits"] for row in table["products"]}
    faults = [
        f"{name(row)}: found {row[number]} {number}, the limit is {limits[_key(row)][number]}"
        for row in reached(rows)
        for number in limits[_key(row)]
        if row[number] > limits[_key(row)][number]
    ]
    return faults + [f"{one}: spills" for one in spilling(rows) if one not in table["spilling"]]
