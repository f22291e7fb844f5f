"""A hook of mkdocs that fills the tables of a page from bench/results, one row a format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_dequant import formats
from mlx_dequant.bench import results
from mlx_dequant.registry import FAMILIES

RESULTS = Path(__file__).parents[2] / "bench" / "results"


@dataclass(frozen=True)
class Measurement:
    """A timed row of a results file: what the tables need of it.

    Attributes:
        format: "Q4_K"; "GPTQ 4-bit, act-order" where the weight has a g_idx; "dense", "mlx-4" beside ours.
        operation: "dequantize" or "linear".
        rows: rows of x; 0 when dequantizing.
        provider: who computed it: "mlx-dequant host", "torch dense cpu".
        route: the kernels that had to run; "" where the dispatcher chose, or none of ours ran.
        seconds: one call, the median; the least where the file has no other.
        gbps: bytes read and written a second, / 1e9.
        copy_share: gbps of that of a copy in the same run; 0 where none was timed.
    """

    format: str
    operation: str
    rows: int
    provider: str
    route: str
    seconds: float
    gbps: float
    copy_share: float


def read(name: str) -> list[Measurement]:
    """The timed measurements of a results file, as `mlx_dequant.bench.results` defines it, and those of routes."""
    rows = results.read(RESULTS / name)["rows"]
    timed = [row for row in results.of_operations(rows) if row["status"] == "timed"]
    return [_measurement(row) for row in [*timed, *(row for row in rows if row["case"] == "route")]]


def ours(name: str) -> list[Measurement]:
    """Those of a file that this package made."""
    return [row for row in read(name) if results.is_ours(row.provider)]


def _measurement(row: dict[str, Any]) -> Measurement:
    form = formats().get(row["format"])
    seconds = row["seconds"]
    return Measurement(
        format=(form.title if form else row["format"]) + (", act-order" if row.get("has_g_idx") else ""),
        operation=row.get("operation", row["case"]),
        rows=row["M"],
        provider=row["provider"],
        route=row.get("route", ""),
        seconds=seconds.get("median", seconds["min"]),
        gbps=row.get("gbps", 0.0),
        copy_share=row.get("share_of_copy") or 0.0,
    )


def table(heads: list[str], lines: dict[str, list[str]]) -> str:
    """Markdown: the formats in the registry's order, then the other lines."""
    order = [form.title for form in formats().values()]
    order = [name for title in order for name in (title, f"{title}, act-order")]
    names = [name for name in order if name in lines] + [name for name in lines if name not in order]
    return _markdown(heads, [[name, *lines[name]] for name in names])


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    head = f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}"
    return "\n".join([head, *(f"| {' | '.join(line)} |" for line in lines), ""])


def h100_dequantize() -> str:
    heads = ["format", "GB/s", "share of the copy"]
    rows = ours("h100-dequantize.json")
    return table(heads, {row.format: [f"{row.gbps:,.0f}", f"{row.copy_share:.2f}"] for row in rows})


def h100_decode() -> str:
    counts = (1, 2, 4, 8)
    rows = read("h100-linear-1.json") + read("h100-linear-few.json")
    own = [row for row in rows if results.is_ours(row.provider)]
    lines: dict[str, list[str]] = {}
    for name, found in _by_format(own).items():
        single = f"{found[1].copy_share:.2f}" if 1 in found else ""
        lines[name] = [_us(found[count].seconds) if count in found else "" for count in counts] + [single]
    others = {"MLX dense, float16": "dense", "MLX's own 4-bit": "mlx-4", "MLX's own 8-bit": "mlx-8"}
    for label, name in others.items():
        lines[label] = [*(_beside(rows, count, name) for count in counts), ""]
    rows_of_x = ["1 row, us", "2 rows, us", "4 rows, us", "8 rows, us"]
    return table(["format", *rows_of_x, "1 row, share of the copy"], lines)


def h100_prefill() -> str:
    counts = (32, 128, 512)
    rows = [row for row in read("h100-linear-many.json") if row.rows in counts]
    lines = {
        name: [_us(found[count].seconds) if count in found else "" for count in counts]
        for name, found in _by_format([row for row in rows if results.is_ours(row.provider)]).items()
    }
    lines["MLX dense, float16"] = [_beside(rows, count, "dense") for count in counts]
    return table(["format", *(f"{count} rows, us" for count in counts)], lines)


def h200_routes() -> str:
    """A line for each format and number of rows of x: three ways to multiply, each beside MLX's dense product."""
    times: dict[tuple[str, int, str], float] = {}
    for row in read("h200-routes.json"):
        if row.operation == "linear" and row.rows >= 64:
            way = row.route or row.provider
            key = row.format, row.rows, way
            times[key] = min(row.seconds, times.get(key, row.seconds))
    ways = ("fused_gemm", "dequantize_then_gemm", "mlx-dequant at 587a8ca")
    titles = [form.title for form in formats().values()]
    lines: list[list[str]] = []
    for name, count in sorted({key[:2] for key in times if key[0]}, key=lambda key: (titles.index(key[0]), key[1])):
        dense = times["", count, "mlx dense"]
        found = [times.get((name, count, way)) for way in ways]
        cells = [cell for one in found for cell in ((_us(one), f"{one / dense:.2f}") if one else ("", ""))]
        lines.append([name, str(count), _us(dense), *cells])
    names = ("fused_gemm", "dequantize_then_gemm", "at 587a8ca")
    compared = [f"{name}, {unit}" for name in names for unit in ("us", "times dense")]
    return _markdown(["format", "rows of x", "MLX dense, us", *compared], lines)


def cpu_decode() -> str:
    """A line for each way to run a GGUF file's model on a CPU."""
    rows = json.loads((RESULTS / "cpu-decode.json").read_text())["rows"]
    lines = [
        [
            row["provider"] + ", fused" * row.get("fused", False),
            formats()[row["format"]].title if row["format"] in formats() else "dense float32",
            f"{row['decode_tokens_per_second']:.1f}",
            f"{row['prompt_tokens_per_second']['256']:.0f}",
        ]
        for row in rows
    ]
    return _markdown(["who", "weights", "answer, tokens/s", "prompt of 256, tokens/s"], lines)


def _model_rows(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / name).read_text())["rows"]


def _model_title(row: dict[str, Any]) -> str:
    form = formats().get(row["format"])
    if not form:
        return f"MLX {row['format'].removeprefix('mlx-')}" + "-bit" * row["format"].startswith("mlx-")
    return form.title + ", act-order" * row.get("has_g_idx", False) + ", fused" * row.get("fused", False)


def h200_decode() -> str:
    """A line for each model: tokens a second, beside MLX's 4 bits and MLX's dense model."""
    rows = _model_rows("h200-decode.json")
    by_name = {row["format"]: row for row in rows if row["provider"] == "mlx"}
    answer = by_name["mlx-4"]["decode_tokens_per_second"]
    dense = by_name["dense"]["prompt_tokens_per_second"]
    lines: list[list[str]] = []
    for row in rows:
        speed, prompts = row["decode_tokens_per_second"], row["prompt_tokens_per_second"]
        cells = [f"{speed:.0f}", f"{speed / answer:.2f}"]
        for length in ("512", "2048"):
            cells += [f"{prompts[length]:,.0f}", f"{prompts[length] / dense[length]:.2f}"]
        costs = [f"{row['build_us']:.1f}", str(row["launches"]), f"{row['text_bytes'] / 1000:.1f}"]
        lines.append([_model_title(row), *cells, *costs])
    heads = ["model", "answer, tokens/s", "of MLX's 4 bits", "prompt of 512, tokens/s", "of dense"]
    heads += ["prompt of 2048, tokens/s", "of dense", "us to build a product", "launches of one", "KB of its text"]
    return _markdown(heads, lines)


def h200_experts() -> str:
    """A line for each mixture of experts: answers, prompts, and its experts' products in us."""
    lines: list[list[str]] = []
    for row in _model_rows("h200-qwen3-30b-a3b.json"):
        up, down = row["experts"]["up"], row["experts"]["down"]
        speeds = [row["decode_tokens_per_second"], *map(row["prompt_tokens_per_second"].get, ("512", "2048"))]
        products = [f"{us:,.0f}" for us in (up["1"], up["512"], down["512"], up["2048"], down["2048"])]
        launches = str(row["experts"]["launches"]["512"])
        lines.append([_model_title(row), *(f"{speed:,.0f}" for speed in speeds), *products, launches])
    heads = ["model", "answer, tokens/s", "prompt of 512, tokens/s", "prompt of 2048, tokens/s"]
    heads += ["up, 1 token", "up, 512", "down, 512", "up, 2048", "down, 2048", "launches, 512"]
    return _markdown(heads, lines)


# Apple's GPUs: cores, lanes' instructions a second in billions, bandwidth in GB/s.
APPLE = {"M1": (8 * 128 * 1.278, 68), "M4 Pro": (20 * 128 * 1.578, 273), "M3 Ultra": (80 * 128 * 1.38, 819)}


def agx() -> str:
    """A line for each format's product with one row of x, and MLX's own."""
    rows = json.loads((RESULTS / "agx.json").read_text())["rows"]
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row["M"] != 1 or row["dtype"] != "float16" or not row["kernel"].startswith(("qmv", "qvm")):
            continue
        form = formats().get(row["format"])
        layout = FAMILIES[form.family].layout if form else "NK"
        if row["kernel"].removesuffix(" permuted") != ("qvm" if layout == "KN" else "qmv"):
            continue
        # A group of 128 has a float16 scale and a zero point; one of MLX's, of 64, two float16 numbers.
        bits = form.code_bits + (form.bits and (16 + form.bits) / 128) if form else int(row["format"][-1]) + 0.5
        name = (form.title if form else f"MLX {row['format'][-1]}-bit") + (", act-order" if row["has_g_idx"] else "")
        needed = row["instructions_per_weight"]
        shares = [f"{rate / needed * bits / 8 / gbps:.1f}" for rate, gbps in APPLE.values()]
        lines[name] = [str(row["registers"]), str(row["threads"]), f"{needed:.2f}", f"{bits / 8:.2f}", *shares]
    heads = ["format", "registers", "threads a core", "instructions a weight", "bytes a weight"]
    return table(heads + [f"arithmetic beside memory, {name}" for name in APPLE], lines)


def cpu_dequantize() -> str:
    clang, gcc = ours("cpu-dequantize-clang.json"), ours("cpu-dequantize-gcc.json")
    gguf_py = {row.format: row.seconds for row in read("cpu-dequantize-clang.json") if row.provider == "gguf-py"}
    shares = {row.format: f"{row.copy_share:.2f}" for row in gcc}
    heads = ["format", "clang++ 19, share of a copy", "g++ 12, share of a copy", "clang++ 19, times gguf-py's speed"]
    # gguf-py returns F32 as a view: it dequantizes nothing there.
    times = {row.format: gguf_py.get(row.format, 0.0) / row.seconds for row in clang}
    lines = {
        row.format: [
            f"{row.copy_share:.2f}",
            shares.get(row.format, ""),
            f"{times[row.format]:.0f}" if times[row.format] >= 1 else "",
        ]
        for row in clang
    }
    return table(heads, lines)


def cpu_linear() -> str:
    counts = (1, 8, 32, 512)
    rows = [row for row in read("cpu.json") if row.operation == "linear"]
    fused, torch = (
        _by_format([r for r in rows if r.provider == name]) for name in ("mlx-dequant host", "torch dense cpu")
    )
    heads = ["format"] + [
        f"{count} {'row' if count == 1 else 'rows'}, {who}, ms" for count in counts for who in ("ours", "torch")
    ]
    lines = {
        name: [
            f"{of[name][m].seconds * 1e3:.2f}" if m in of.get(name, {}) else "" for m in counts for of in (fused, torch)
        ]
        for name in fused
    }
    return table(heads, lines)


TORCH = ("mlx-dequant from torch", "torch eager", "torch compile", "torch int4", "torch dense")


def torch_tasks() -> str:
    """A line for each device (a file `torch-DEVICE.json`), task and format: what a torch user can choose from."""
    lines: list[list[str]] = []
    for path in sorted(RESULTS.glob("torch-*.json")):
        device = path.stem.removeprefix("torch-")
        times: dict[tuple[int, str], dict[str, float]] = {}
        for row in read(path.name):
            times.setdefault((row.rows, row.format), {})[row.provider.removesuffix(f" {device}")] = row.seconds
        for (count, name), found in sorted(times.items()):
            cells = [f"{found[each] * 1e3:.2f}" if each in found else "" for each in TORCH]
            best = min(found[each] for each in TORCH[1:] if each in found)
            task = f"{count} row{'s' if count > 1 else ''}" if count else "dequantize"
            lines.append([device, task, name, *cells, f"{found[TORCH[0]] / best:.2f}"])
    names = ("ours", "plain torch", "torch.compile", "torch's int4", "torch's dense")
    return _markdown(["device", "task", "format", *(f"{name}, ms" for name in names), "ours, of the best"], lines)


def _by_format(rows: list[Measurement]) -> dict[str, dict[int, Measurement]]:
    found: dict[str, dict[int, Measurement]] = {}
    for row in rows:
        found.setdefault(row.format, {})[row.rows] = row
    return found


def _beside(rows: list[Measurement], count: int, name: str) -> str:
    """The best of the times of a format that is not ours: now and then another program disturbed one."""
    seconds = [
        row.seconds for row in rows if row.rows == count and row.format == name and row.provider.startswith("MLX")
    ]
    return _us(min(seconds)) if seconds else ""


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"


TABLES: dict[str, Callable[[], str]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        h100_dequantize,
        h100_decode,
        h100_prefill,
        h200_routes,
        h200_decode,
        h200_experts,
        agx,
        cpu_decode,
        cpu_dequantize,
        cpu_linear,
        torch_tasks,
    )
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for each page: a table takes the place of each `<!-- table: NAME -->`."""
    return re.sub("<!-- table: (.+) -->", lambda found: TABLES[found[1]](), markdown)
