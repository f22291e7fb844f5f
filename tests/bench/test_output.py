"""What a benchmark shows and writes: tables, JSON, CSV, comparisons, charts, the text to submit."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench_rows import matmuls, result, row
from rich.console import Console

import mlx_dequant as mxd
from mlx_dequant.bench import changes, chart, command, crossings, report, results
from mlx_dequant.bench.cases import overhead
from mlx_dequant.bench.providers import Ready
from mlx_dequant.bench.providers.ours import Ours
from mlx_dequant.cli import main

RESULTS = Path(__file__).parents[2] / "bench" / "results"
ROWS = [
    row("copy", 5e-4),
    row(),
    row("torch eager cpu", 2e-1),
    row("gguf-py", None, check='<b>"wrong"</b>'),
    *matmuls("mlx-dequant host", {1: 1e-3, 8: 8e-3, 32: 3e-2}),
    *matmuls("torch dense cpu", {1: 4e-3, 8: 5e-3, 32: 6e-3}),
]


def printed(*shown) -> str:
    console = Console(file=io.StringIO(), width=120)
    for part in shown:
        console.print(part)
    return console.file.getvalue()


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(result(ROWS)))
    return path


def test_a_run_cut_short_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def cut_short(cases, here, show, **others):
        show(cases[0], [row()])
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measured", cut_short)
    file = tmp_path / "new.json"
    assert main(["bench", "--quick", "--json", str(file)]) == 130
    assert [r["status"] for r in json.loads(file.read_text())["rows"] if r["case"] != "overhead"] == ["timed"]


def test_a_run_writes_everything(tmp_path, capsys):
    files = {name: tmp_path / f"new.{name}" for name in ("json", "csv", "html")}
    chosen = ["--quick", "--operations", "dequantize", "--providers", "mlx-dequant", "gguf", "--submit-text"]
    status = main(["bench", *chosen, *(part for name, path in files.items() for part in (f"--{name}", str(path)))])
    out = capsys.readouterr().out
    assert status == 0
    written = results.read(files["json"])
    rows = results.of_operations(written["rows"])
    assert {(r["case"], r["status"]) for r in rows} == {("dequantize", "timed")}
    assert {"copy", "gguf-py"} < {r["provider"] for r in rows}
    costs = {row["what"]: row["seconds"]["median"] for row in written["rows"] if row["case"] == "overhead"}
    assert all(0 < seconds < math.inf for seconds in costs.values())
    assert {"import mlx_dequant", "one operation, waited for"} <= set(costs)
    assert len([name for name in costs if name.startswith("first call of a kernel")]) == 2
    lines = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [float(line["seconds_median"]) for line in lines] == [r["seconds"]["median"] for r in written["rows"]]
    assert files["html"].read_text().endswith("</html>\n")
    assert "dequantize q4_k, Qwen3-4B k_proj" in out and "Overhead" in out and "```\nmlx-dequant" in out


def test_our_own_wrong_result_is_exit_1(tmp_path, monkeypatch, capsys):
    class Wrong(Ours):
        def prepare(self, case, data):
            ready = super().prepare(case, data)
            return ready and Ready(ready.call, ready.wait, lambda result: ready.numpy(result) + 1)

    monkeypatch.setattr(command, "found", lambda: ([Wrong("reference")], {}))
    monkeypatch.setattr(command, "quick_fits", lambda case, provider: case.format == "q4_k")
    monkeypatch.setattr(overhead, "rows", lambda rounds: [])
    assert main(["bench", "--quick", "--operations", "dequantize"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_results_of_a_file_are_shown(old, capsys):
    assert main(["bench", "--from", str(old), "--submit-text"]) == 0
    out = capsys.readouterr().out
    assert "linear q4_k, Llama-3-8B q_proj, 32 rows" in out
    assert "WRONG" in out and "A processor" in out


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", '{"rows": []}', '{"schema": 0}', '{"schema": 1, "rows": [{"seconds": 1}]}']
)
@pytest.mark.parametrize("option", ["--from", "--compare"])
def test_a_file_of_something_else_is_exit_2(option, text, tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(text)
    assert main(["bench", "--quick", option, str(path)]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--formats", "q9_k"], ["--layers", "GPT-9"]])
def test_an_unknown_name_is_exit_2(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert arguments[1] in capsys.readouterr().err


def test_only_what_is_beyond_the_noise_changed():
    faster = [dict(r) for r in ROWS]
    faster[2] = row("torch eager cpu", 1e-1)
    faster[1] = row(median=1.015e-3)  # quartiles meet
    found = changes.changes(result(ROWS), result(faster))
    assert [(c["provider"], c["ratio"]) for c in found["changed"]] == [("torch eager cpu", 0.5)]
    assert (found["same"], found["added"], found["removed"], found["broken"], found["environments"]) == (
        8,
        0,
        0,
        [],
        [],
    )


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (row(median=1.5e-3), True),
        (row(seconds={"low": 1.0e-3, "median": 1.5e-3, "high": 1.6e-3}), False),
        (row(seconds={"low": 1.015e-3, "median": 1.02e-3, "high": 1.03e-3}), False),
        (row(median=0.5e-3), True),
    ],
)
def test_noise(new, changed):
    assert changes.beyond_noise(row(), new) is changed


def test_a_comparison_names_what_broke_and_moved(old, tmp_path, capsys):
    new = tmp_path / "new.json"
    rows = [row(median=None), row("torch eager cpu", 4e-1), row("a new one")]
    new.write_text(json.dumps(result(rows, device="Another")))
    assert main(["bench", "--from", str(new), "--compare", str(old)]) == 1
    out = capsys.readouterr().out
    assert "not the same device: A processor before, Another now" in out
    assert "2.00 times as long" in out
    assert "mlx-dequant host: WRONG: 1 of 4 values differ" in " ".join(out.split())
    assert "1 changed beyond the noise, 0 same, 1 added, 8 removed" in out


def test_lines_that_meet():
    (met,) = crossings.crossovers(ROWS)
    assert (met["ours"], met["other"], met["faster"]) == ("mlx-dequant host", "torch dense cpu", "torch dense cpu")
    # On logarithmic scales: from a lead of 4 at 1 row to one of 5/8 at 8.
    assert met["M"] == pytest.approx(8 ** (math.log(4) / math.log(4 / 0.625)))
    assert crossings.meetings([(1, 2.0), (8, 2.0)], [(1, 1.0), (8, 4.0)]) == [(pytest.approx(8**0.5), False)]
    assert crossings.meetings([(1, 1.0), (8, 1.0)], [(1, 2.0), (8, 2.0)]) == []
    assert crossings.meetings([(1, 1.0)], [(8, 2.0)]) == []


def test_the_text_to_submit_is_compact():
    text = report.submit_text(result(ROWS))
    assert text.startswith("```\nmlx-dequant 0.1.0: A processor, host, 2 threads, clang 19, mlx 0.32.4, torch 2.13.0")
    assert text.endswith("mlx-dequant, import: 400 ms\n```\n")
    assert "dequantize q4_k 4096x4096 - float16 | mlx-dequant host | 1 ms | 4 | 0.50" in text
    assert "gguf-py | wrong" in text
    assert len(text.splitlines()) == len(ROWS) + 7


def test_charts_are_well_formed(old, tmp_path):
    chart.main([str(old)])
    for kind, names in (
        ("dequantize", {"mlx-dequant host", "torch eager cpu"}),
        ("matmul", {"mlx-dequant host", "torch dense cpu"}),
        ("linear", {"mlx-dequant host", "torch dense cpu"}),
    ):
        root = ElementTree.parse(tmp_path / f"old-{kind}.svg").getroot()
        words = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert names <= words
        assert "copy" not in words and "gguf-py" not in words
        assert any("A processor" in word for word in words)
        for node in root.iter():
            for value in node.attrib.values():
                assert not re.search("nan|inf|None|http", value), value


def test_a_chart_of_nothing_is_no_file(tmp_path):
    path = tmp_path / "few.json"
    path.write_text(json.dumps(result([row(case="take", M=4)])))
    chart.main([str(path), "--into", str(tmp_path)])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.5, "500 ms"), (8.18e-3, "8.18 ms"), (1e-3, "1 ms"), (2.5e-7, "0.25 µs")]
)
def test_durations_are_for_people(seconds, text):
    assert report.duration(seconds) == text


def test_missed_aims_are_marked():
    (table,) = report.other_tables(result([])["rows"])
    assert "400 ms" in printed(table) and "300 ms" in printed(table)
    assert any("yellow" in str(cell.style) for cell in table.columns[2].cells)


def test_rows_of_other_cases_are_carried_and_shown(tmp_path, capsys):
    """Such as decode: a model's tokens a second have no format of a layer, no shape and no copy."""
    speeds = {"decode_tokens_per_second": 145.0, "prompt_tokens_per_second": {"512": 15700.0}, "launches": 7}
    decode = {"case": "decode", "model": "llama-8b", "provider": "mlx-dequant", "format": "q4_k", **speeds}
    path = tmp_path / "decode.json"
    path.write_text(json.dumps(result([decode])))
    assert results.read(path)["rows"][0] == decode
    files = {name: str(tmp_path / f"decode.{name}") for name in ("csv", "html")}
    assert main(["bench", "--from", str(path), "--csv", files["csv"], "--html", files["html"], "--submit-text"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"mlx-dequant +q4_k +145.0 +15,700", out) and re.search(r"mlx-dequant +q4_k +7", out)
    (line,) = csv.DictReader(io.StringIO((tmp_path / "decode.csv").read_text().partition("\noverhead")[0]))
    assert (line["model"], line["prompt_512"], line["launches"]) == ("llama-8b", "15700.0", "7")


@pytest.mark.parametrize("file", sorted({*RESULTS.glob("*.json")} - {RESULTS / "agx.json"}), ids=lambda path: path.name)
def test_committed_results_are_of_the_schema(file):
    rows = results.read(file)["rows"]
    assert {found.get("format", "") for found in rows} <= {*mxd.formats(), "", "dense", "mlx-4", "mlx-6", "mlx-8"}
    for found in results.of_operations(rows):
        assert (found["status"] == "timed") == (found["seconds"] is not None)
        if found["seconds"]:
            assert found["gbps"] == pytest.approx(found["bytes"] / found["seconds"]["median"] / 1e9, rel=1e-3)


def test_committed_charts_are_those_of_the_results(tmp_path):
    """Made by `python -m mlx_dequant.bench.chart bench/results/cpu.json`."""
    chart.main([str(RESULTS / "cpu.json"), "--into", str(tmp_path)])
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in RESULTS.glob("*.svg")}
