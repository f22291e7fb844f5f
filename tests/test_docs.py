"""The README and the pages under docs/: links lead somewhere, programs run, and names are those of the package."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
from bench_rows import matmuls, result, row

import mlx_dequant as mxd

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# The torch page has tests of its own.
RUN = [page for page in PAGES if "```python" in page.read_text() and page.name != "torch.md"]


@cache
def hook(name: str):
    """A module of docs/site, which mkdocs runs when it builds the pages."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def generated() -> dict[Path, str]:
    return {ROOT / "docs" / path: text for path, text in hook("format_pages").pages().items()}


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def programs(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Headings as mkdocs and GitHub number them, and what mkdocstrings writes."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    slugs = {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
    return slugs | set(re.findall(r"^::: (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    made = generated()
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", prose(page.read_text())):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.is_file() and path not in made:
            broken.append(target)
        elif anchor and anchor not in anchors(made[path] if path in made else path.read_text()):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_there_are_pages():
    assert len(PAGES) > 10
    assert len(RUN) > 5


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_programs_compile(page):
    for program in programs(page):
        compile(program, page.name, "exec")


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder with what the pages' programs read: model.gguf, and a GPTQ checkpoint in `folder`."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    blocks = np.tile(np.arange(34, dtype=np.uint8), (64, 2))
    writer.add_tensor("blk.0.ffn_up.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    shutil.copytree(ROOT / "tests/fixtures/groups/gptq_w4_g64_sym_v1_full", tmp_path / "folder")
    return tmp_path


@pytest.mark.full
@pytest.mark.parametrize("page", RUN, ids=[page.name for page in RUN])
def test_programs_run(page, files):
    """All of a page as one program, but for what needs a whole language model."""
    if page.name == "mlx-lm.md":
        pytest.importorskip("mlx_lm", reason="the page is about mlx-lm")
    program = "\n".join(block for block in programs(page) if "lm.load(" not in block)
    assert program
    done = subprocess.run([sys.executable, "-c", program], cwd=files, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_readme_has_a_row_for_each_format():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    cells = {cell.strip() for row in rows for cell in re.split(r"[|,]", row)}
    assert [form.title for form in mxd.formats().values() if form.title not in cells] == []


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: mlx_dequant\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    objects = [getattr(mxd, name) for name in named]
    # A base class shows in those that have it; an alias is the same object.
    bases = {base for thing in objects if isinstance(thing, type) for base in thing.__mro__}
    missing = [name for name in mxd.__all__ if not any(getattr(mxd, name) is thing for thing in (*objects, *bases))]
    assert missing == ["__version__"]


def test_a_format_has_a_page_with_its_picture():
    made = {path.stem: text for path, text in generated().items()}
    for form in mxd.formats().values():
        text = made[Path(form.source).stem]
        assert re.search(rf"^\| {form.name} \|", text, re.MULTILINE), form.name
        assert re.search(r"```text\n.*\|.*```|bits   31", text, re.DOTALL), form.name
        assert f"[{form.title}]({Path(form.source).stem}.md)" in made["index"]


@pytest.mark.parametrize("name", ["h100-dequantize", "h100-decode", "cpu-dequantize"])
def test_tables_have_a_row_for_each_format(name):
    rows = hook("performance_tables").TABLES[name]().splitlines()
    found = {row.split("|")[1].strip() for row in rows[2:]}
    missing = {form.title for form in mxd.formats().values()} - found
    assert missing <= {"F16"}  # a copy, where x has its type


def test_the_table_of_routes_has_the_least_time_of_each():
    rows = hook("performance_tables").TABLES["h200-routes"]().splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {row[0] for row in cells} == {"Q4_K", "Q6_K", "AWQ 4-bit", "GPTQ 4-bit"}
    assert ["Q4_K", "512", "381", "723", "1.90", "539", "1.41", "482", "1.26"] in cells


def test_the_table_of_torch_has_a_line_for_each_task(monkeypatch, tmp_path):
    """From a file a device; a provider that takes no part leaves its cell empty."""
    tables = hook("performance_tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    ours, eager, int4 = (
        matmuls(name, {1: first, 64: last}) for name, first, last in
        (("mlx-dequant from torch", 1e-3, 8e-3), ("torch eager mps", 9e-3, 9e-3), ("torch int4 mps", 2e-3, 5e-3))
    )  # fmt: skip
    dequantized = [row("mlx-dequant from torch", 2e-3), row("torch eager mps", 8e-3)]
    (tmp_path / "torch-mps.json").write_text(json.dumps(result([*ours, *eager, *int4, *dequantized])))
    assert tables.TABLES["torch-tasks"]().splitlines()[2:] == [
        "| mps | dequantize | Q4_K | 2.00 | 8.00 |  |  |  | 0.25 |",
        "| mps | 1 row | Q4_K | 1.00 | 9.00 |  | 2.00 |  | 0.50 |",
        "| mps | 64 rows | Q4_K | 8.00 | 9.00 |  | 5.00 |  | 1.60 |",
    ]


def test_every_table_is_on_the_page_and_can_be_made():
    tables = hook("performance_tables")
    page = (ROOT / "docs" / "performance.md").read_text()
    assert set(re.findall("<!-- table: (.*) -->", page)) == set(tables.TABLES)
    filled = tables.on_page_markdown(page)
    assert "<!-- table" not in filled
    for table in re.findall(r"(?:^\|.*\n)+", filled, re.MULTILINE):
        assert len({row.replace(r"\|", "").count("|") for row in table.splitlines()}) == 1, table


def messages() -> list[str]:
    """The package's longer texts as regular expressions: what stands in braces may be anything."""
    found: list[str] = []
    for folder in ("mlx_dequant", "bridges"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                if (
                    all(text is None or isinstance(text, str) for text in texts)
                    and len("".join(filter(None, texts))) > 12
                ):
                    found.append("".join(".+" if text is None else re.escape(text) for text in texts))
    return found


def test_headings_of_the_faq_are_our_messages():
    page = prose((ROOT / "docs" / "faq.md").read_text())
    headings = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert len(headings) > 20
    assert len(headings) == page.count("\n### ")
    patterns = messages()
    for heading in headings:
        whole = heading.removesuffix("…")
        # A file's name may stand before a message, and more may follow what is cut short.
        texts = [whole, whole.partition(": ")[2]]
        cut = len(whole) < len(heading)
        known = any(re.fullmatch(pattern, text) for pattern in patterns for text in texts if text)
        assert known or (cut and any(pattern.startswith(re.escape(whole)) for pattern in patterns)), heading
