"""What a benchmark shows and writes: tables, JSON, CSV, comparisons, charts, the text to submit."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from xml.etree import ElementTree

import pytest
from bench_rows import products, report, row
from rich.console import Console

from mlx_dequant.bench import chart, command, compare, crossover, submit, tables
from mlx_dequant.bench import report as reports
from mlx_dequant.bench.contestants import Ready
from mlx_dequant.bench.contestants.ours import Ours
from mlx_dequant.cli import main

ROWS = [
    row("copy", 5e-4),
    row(),
    row("torch eager cpu", 2e-1),
    row("gguf-py", None, note='<b>"wrong"</b>'),
    *products("mlx-dequant host", {1: 1e-3, 8: 8e-3, 32: 3e-2}),
    *products("torch dense cpu", {1: 4e-3, 8: 5e-3, 32: 6e-3}),
]


def printed(*shown) -> str:
    console = Console(file=io.StringIO(), width=120)
    for part in shown:
        console.print(part)
    return console.file.getvalue()


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(ROWS)))
    return path


def test_a_run_cut_short_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def cut_short(cases, here, show, **others):
        show(cases[0], [row()])
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measured", cut_short)
    file = tmp_path / "new.json"
    assert main(["bench", "--quick", "--json", str(file)]) == 130
    assert [r["status"] for r in json.loads(file.read_text())["rows"]] == ["timed"]


def test_a_run_writes_everything(tmp_path, capsys):
    files = {name: tmp_path / f"new.{name}" for name in ("json", "csv", "html")}
    chosen = ["--quick", "--operations", "dequantize", "--contestants", "mlx-dequant", "gguf", "--submit-text"]
    status = main(["bench", *chosen, *(part for name, path in files.items() for part in (f"--{name}", str(path)))])
    out = capsys.readouterr().out
    assert status == 0
    result = json.loads(files["json"].read_text())
    assert {(r["operation"], r["status"]) for r in result["rows"]} == {("dequantize", "timed")}
    assert {"copy", "gguf-py"} < {r["contestant"] for r in result["rows"]}
    assert all(set(reports.NEEDED) <= set(r) for r in result["rows"])
    costs = {cost["cost"]: cost["seconds"] for cost in result["fixed"]}
    assert all(0 < seconds < math.inf for seconds in costs.values())
    assert {"import mlx_dequant", "one MLX operation, evaluated alone"} <= set(costs)
    assert len([name for name in costs if name.startswith("first call of a program")]) == 2
    lines = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [float(line["seconds"]) for line in lines] == [r["seconds"] for r in result["rows"]]
    assert files["html"].read_text().endswith("</html>\n")
    assert "dequantize q4_k, Qwen3-4B k_proj" in out and "Fixed costs" in out and "```\nmlx-dequant" in out


def test_our_own_wrong_result_is_exit_1(tmp_path, monkeypatch, capsys):
    class Wrong(Ours):
        def prepare(self, case, data):
            ready = super().prepare(case, data)
            return ready and Ready(ready.call, ready.wait, lambda result: ready.numpy(result) + 1)

    monkeypatch.setattr(command, "found", lambda: ([Wrong("reference")], {}))
    monkeypatch.setattr(command, "quick_fits", lambda case, contestant: case.format == "q4_k")
    monkeypatch.setattr(command, "fixed_costs", lambda rounds: [])
    assert main(["bench", "--quick", "--operations", "dequantize"]) == 1
    assert "DISQUALIFIED" in capsys.readouterr().out


def test_results_of_a_file_are_shown(old, capsys):
    assert main(["bench", "--from", str(old), "--submit-text"]) == 0
    out = capsys.readouterr().out
    assert "linear q4_k, Llama-3-8B q_proj, 32 x" in out
    assert "DISQUALIFIED" in out and "A processor" in out


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", '{"rows": []}', '{"date": "", "fixed": [], "rows": [{"seconds": 1}]}']
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
    faster[1] = row(seconds=1.015e-3)  # quartiles meet
    found = compare.changes(ROWS, faster)
    assert [(c["contestant"], c["ratio"]) for c in found["changed"]] == [("torch eager cpu", 0.5)]
    assert (found["same"], found["added"], found["removed"], found["broken"], found["places"]) == (8, 0, 0, [], [])


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (row(seconds=1.5e-3), True),
        (row(seconds=1.5e-3, low=1.0e-3), False),
        (row(seconds=1.02e-3, low=1.015e-3, high=1.03e-3), False),
        (row(seconds=0.5e-3), True),
    ],
)
def test_noise(new, changed):
    assert compare.beyond_noise(row(), new) is changed


def test_a_comparison_names_what_broke_and_moved(old, tmp_path, capsys):
    new = tmp_path / "new.json"
    rows = [row(seconds=None), row("torch eager cpu", 4e-1), row("a new one")]
    new.write_text(json.dumps(report([r | {"device": "Another"} for r in rows])))
    assert main(["bench", "--from", str(new), "--compare", str(old)]) == 1
    out = capsys.readouterr().out
    assert "not the same device: A processor before, Another now" in out
    assert "2.00 times as long" in out
    assert "mlx-dequant host: DISQUALIFIED: 1 of 4 values differ" in " ".join(out.split())
    assert "1 changed beyond the noise, 0 same, 1 added, 8 removed" in out


def test_lines_that_meet():
    (met,) = crossover.crossovers(ROWS)
    assert (met["ours"], met["other"], met["faster"]) == ("mlx-dequant host", "torch dense cpu", "torch dense cpu")
    # On logarithmic scales: from a lead of 4 at 1 row to one of 5/8 at 8.
    assert met["vectors"] == pytest.approx(8 ** (math.log(4) / math.log(4 / 0.625)))
    assert crossover.meetings([(1, 2.0), (8, 2.0)], [(1, 1.0), (8, 4.0)]) == [(pytest.approx(8**0.5), False)]
    assert crossover.meetings([(1, 1.0), (8, 1.0)], [(1, 2.0), (8, 2.0)]) == []
    assert crossover.meetings([(1, 1.0)], [(8, 2.0)]) == []


def test_the_text_to_submit_is_compact():
    text = submit.submit_text(ROWS, report(ROWS)["fixed"])
    assert text.startswith("```\nmlx-dequant 0.1.0: A processor, host, 2 threads, clang 19, mlx 0.32.4, torch 2.13.0")
    assert text.endswith("import mlx_dequant: 400 ms\n```\n")
    assert "dequantize q4_k 4096x4096 - float16 | mlx-dequant host | 1 ms | 4 | 0.50" in text
    assert "gguf-py | disqualified" in text
    assert len(text.splitlines()) == len(ROWS) + 7


def test_charts_are_well_formed(old, tmp_path):
    chart.main([str(old)])
    for kind, names in (
        ("dequantize", {"mlx-dequant host", "torch eager cpu"}),
        ("product", {"mlx-dequant host", "torch dense cpu"}),
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


def older_rows(**changes):
    row = {"operation": "linear", "format": "q8_0", "shape": [8192, 28672], "vectors": 1, "dtype": "float16"}
    row |= {"seconds": 2e-4, "gbps": 1500.0, "copy_share": 0.5, "backend": "cuda", "device": "A GPU", "threads": 16}
    row |= {"compiler": "", "mlx": "0.32.4", "mlx_dequant": "0.1.0", "python": "3.12.3"}
    row |= {"baselines": {"dense": 4e-4, "mlx 4-bit": 1e-4, "mlx 8-bit": 3e-4}, "unpack_first_seconds": 6e-4}
    return [row | changes]


def test_results_of_the_single_benchmarks_are_read(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(older_rows()))
    rows = {r["contestant"]: r for r in reports.read(str(path))["rows"]}
    assert set(rows) == {"mlx-dequant cuda", "MLX 8-bit", "MLX dense", "unpacked, then MLX dense"}
    assert rows["MLX 8-bit"]["gbps"] == pytest.approx(1000)
    assert rows["MLX dense"]["copy_share"] == pytest.approx(0.25)
    assert {r["copy_gbps"] for r in rows.values()} == {3000.0}
    chart.main([str(path)])
    assert "MLX 8-bit" in (tmp_path / "gpu-product.svg").read_text()
    for changes in ({"backend": "host"}, {"copy_share": 0.0}):
        path.write_text(json.dumps(older_rows(**changes)))
        assert main(["bench", "--from", str(path)]) == 2


def test_a_chart_of_nothing_is_no_file(tmp_path):
    path = tmp_path / "few.json"
    path.write_text(json.dumps(report([row(operation="take", vectors=4)])))
    chart.main([str(path), "--into", str(tmp_path)])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.5, "500 ms"), (8.18e-3, "8.18 ms"), (1e-3, "1 ms"), (2.5e-7, "0.25 µs")]
)
def test_durations_are_for_people(seconds, text):
    assert tables.duration(seconds) == text


def test_missed_aims_are_marked():
    costs = [{"cost": "import", "seconds": 0.9, "aim": 0.5}]
    assert "900 ms" in printed(tables.cost_table(costs)) and "500 ms" in printed(tables.cost_table(costs))
