"""The README's charts, from results: `python -m mlx_dequant.bench.chart RESULTS.json ... [--into FOLDER]`.

Each file gives NAME-dequantize.svg and NAME-matmul.svg, GB/s by format and provider against the copy, the matmuls with
the fewest rows of x; and NAME-linear.svg, time against rows of x. All are for one layer, and light or dark as the
reader's page is. README.md shows `python -m mlx_dequant.bench.chart bench/results/cpu.json`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mlx_dequant import formats

from .crossings import curves
from .report import duration, environment_line
from .results import is_ours, is_timed, of_operations, read

Row = dict[str, Any]

WIDTH = 760
LEFT, RIGHT = 260, 160
COLORS = ("#1f6feb", "#d1571b", "#1a8f6a", "#a1579c", "#8a6d00", "#c2334d", "#4d6b8a", "#6b7280")
DARK = ("#6aa5ff", "#f08a4b", "#45c49a", "#cf8bca", "#d3b23c", "#f0708a", "#8fb2d6", "#a3a9b3")


def style() -> str:
    """Colours for both kinds of page; a picture in a page sees the reader's preference."""
    light = "".join(f".k{i}{{fill:{color};stroke:{color}}}" for i, color in enumerate(COLORS))
    dark = "".join(f".k{i}{{fill:{color};stroke:{color}}}" for i, color in enumerate(DARK))
    plain = (
        "text{font:12px system-ui,sans-serif;fill:#24292f}.soft{fill:#5b616b}.title{font-size:13px;font-weight:600}"
        ".grid{stroke:#dfe1e5}.copy{stroke:#24292f;stroke-width:2}rect{stroke:none!important}.line{fill:none}"
    )
    night = "text{fill:#e6e8eb}.soft{fill:#9aa1ab}.grid{stroke:#33383f}.copy{stroke:#e6e8eb}"
    return f"<style>{plain}{light}@media(prefers-color-scheme:dark){{{night}{dark}}}.line{{fill:none}}</style>"


def svg(height: int, title: str, under: str, where: str, parts: Sequence[str]) -> str:
    """A picture with its title, what its marks mean, and where it was measured."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    words = [text(0, 16, title, "title"), text(0, 36, under, "soft"), text(0, 53, where, "soft")]
    return "\n".join([head, f"<title>{escape(title)}</title>{style()}", *words, *parts, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def title_of(name: str, has_g_idx: bool) -> str:
    """A format's name as its tools print it."""
    title = formats()[name].title if name in formats() else name
    return title.replace("compressed-tensors", "ct") + (" act-order" if has_g_idx else "")


def colors(rows: Sequence[Row]) -> dict[str, int]:
    """A colour for each provider, the same in every chart of a file: ours first, then those that multiply."""
    found = {row["provider"] for row in rows} - {"copy"}
    multiply = {row["provider"] for row in rows if row["case"] == "linear"}
    names = sorted(found, key=lambda name: (not is_ours(name), name not in multiply, name))
    return {name: min(i, len(COLORS) - 1) for i, name in enumerate(names)}


def largest_layer(rows: Sequence[Row]) -> str:
    """The layer that a chart shows: caches and launches matter least there."""
    return max(rows, key=lambda row: (math.prod(row["shape"]), row["layer"]))["layer"]


def bars_chart(rows: Sequence[Row], operation: str, where: str) -> str | None:
    """Bars for each format, longest first, with the copy's GB/s as a mark."""
    timed = [row for row in rows if row["case"] == operation and is_timed(row)]
    if not timed:
        return None
    layer, fewest = largest_layer(timed), min(row["M"] for row in timed)
    same = {"layer": layer, "dtype": timed[0]["dtype"], "M": fewest}
    timed = [row for row in timed if all(row[name] == value for name, value in same.items())]
    kinds = colors(rows)
    most = max(max(row["gbps"], copy_gbps(row)) for row in timed)
    scale = (WIDTH - LEFT - RIGHT) / most
    parts: list[str] = []
    y = 72.0
    for name in dict.fromkeys((row["format"], row["has_g_idx"]) for row in timed):
        here = [row for row in timed if (row["format"], row["has_g_idx"]) == name]
        here.sort(key=lambda row: row["seconds"]["median"])
        parts.append(text(0, y + 12, title_of(*name), "title"))
        for row in here:
            parts += bar(row, y, scale, kinds[row["provider"]])
            y += 20
        y += 12 if len(here) > 1 else 2
    size = "x".join(map(str, timed[0]["shape"]))
    rows_of_x = "1 row" if fewest == 1 else f"{fewest} rows"
    what = f"Dequantizing {layer}" if operation == "dequantize" else f"{rows_of_x} of x times {layer}"
    title = f"{what} ({size}), {timed[0]['dtype']}, GB/s"
    return svg(int(y + 4), title, "mark: a copy of as many bytes, in the same run", where, parts)


def copy_gbps(row: Row) -> float:
    """GB/s of the copy that was measured beside a row."""
    return row["gbps"] / row["share_of_copy"]


def bar(row: Row, y: float, scale: float, color: int) -> Iterator[str]:
    yield text(LEFT - 8, y + 12, row["provider"], "soft", "end")
    yield f'<rect x="{LEFT}" y="{y + 2:.1f}" width="{max(row["gbps"] * scale, 1):.1f}" height="13" class="k{color}"/>'
    mark = LEFT + copy_gbps(row) * scale
    yield f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{y:.1f}" y2="{y + 17:.1f}" class="copy"/>'
    gbps = f"{row['gbps']:,.0f}" if row["gbps"] >= 100 else f"{row['gbps']:.3g}"
    shown = f"{gbps} GB/s, {row['share_of_copy']:.0%} of copy"
    yield text(WIDTH, y + 12, shown, "soft", "end")


def linear_chart(rows: Sequence[Row], where: str) -> str | None:
    """Time against rows of x, a panel for each of up to four formats of the largest layer."""
    matmuls = [row for row in rows if row["case"] == "linear" and is_timed(row)]
    if not matmuls:
        return None
    layer, dtype = largest_layer(matmuls), matmuls[0]["dtype"]
    found = {key[:2]: of for key, of in curves(matmuls).items() if key[2:] == (layer, dtype)}
    found = {name: of for name, of in found.items() if any(len(points) > 1 for points in of.values())}
    if not found:
        return None
    kinds = colors(rows)
    parts: list[str] = []
    for at, (name, of) in enumerate(list(found.items())[:4]):
        parts += panel(title_of(*name), of, 20 + at % 2 * 390, 84 + at // 2 * 230, kinds)
    names = [name for name in kinds if any(name in of for of in found.values())]
    y = 84 + -(-min(len(found), 4) // 2) * 230
    for at, name in enumerate(names):
        x, down = at % 4 * 190, y + at // 4 * 20
        parts.append(f'<rect x="{x}" y="{down - 6}" width="14" height="4" class="k{kinds[name]}"/>')
        parts.append(text(x + 20, down, name, "soft"))
    size = "x".join(map(str, next(row["shape"] for row in matmuls if row["layer"] == layer)))
    title = f"Matmuls with {layer} ({size}), {dtype}: time against rows of x"
    return svg(y + -(-len(names) // 4) * 20, title, "both axes logarithmic, lower is faster", where, parts)


def panel(
    title: str, of: dict[str, list[tuple[int, float]]], left: float, top: float, kinds: dict[str, int]
) -> Iterator[str]:
    """One format's curves in 340 by 180."""
    counts = sorted({m for points in of.values() for m, _ in points})
    times = [math.log10(seconds) for points in of.values() for _, seconds in points]
    low, high = math.floor(min(times)), math.ceil(max(times) + 1e-9)
    far = math.log2(counts[-1] / counts[0]) or 1.0
    start, wide, tall = left + 40, 290.0, 160.0

    def position(m: int, seconds: float) -> str:
        x = start + 8 + (wide - 16) * math.log2(m / counts[0]) / far
        return f"{x:.1f},{top + 14 + tall * (high - math.log10(seconds)) / (high - low):.1f}"

    yield text(left - 20, top, title, "title")
    for power in range(low, high + 1):
        y = top + 14 + tall * (high - power) / (high - low)
        yield f'<line x1="{start}" x2="{start + wide}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield text(start - 6, y + 4, duration(10.0**power), "soft", "end")
    for m in counts:
        x = float(position(m, 10.0**high).split(",")[0])
        yield text(x, top + tall + 32, str(m), "soft", "middle")
    for provider, points in of.items():
        thick = 3 if is_ours(provider) else 1.6
        line = " ".join(position(*point) for point in points)
        yield f'<polyline points="{line}" class="k{kinds[provider]} line" stroke-width="{thick}"/>'
        for point in points:
            x, y = position(*point).split(",")
            yield f'<circle cx="{x}" cy="{y}" r="{thick}" class="k{kinds[provider]}"/>'


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULTS.json")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="beside the results unless given")
    options = parser.parse_args(argv)
    for file in options.results:
        result = read(file)
        rows, where = of_operations(result["rows"]), environment_line(result)
        charts = {
            "dequantize": bars_chart(rows, "dequantize", where),
            "matmul": bars_chart(rows, "linear", where),
            "linear": linear_chart(rows, where),
        }
        for kind, drawn in charts.items():
            if drawn is not None:
                path = (options.into or Path(file).parent) / f"{Path(file).stem}-{kind}.svg"
                path.write_text(drawn, encoding="utf-8")
                print(path)


if __name__ == "__main__":
    main()
