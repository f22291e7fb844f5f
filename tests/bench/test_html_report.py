"""The benchmark's HTML report: whole in itself, and without errors in Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from bench_rows import matmuls, result, row

from mlx_dequant.bench.html_report import html_report

HOSTILE = '</script><script>document.title = "taken"</script>'
ROWS = [
    row("copy", 5e-4),
    row(),
    row("torch eager cpu", 2e-1),
    row(HOSTILE, 3e-2),
    row("gguf-py", None),
    row("MLX own", None, status="left out", check="takes too long"),
    *matmuls("mlx-dequant host", {1: 1e-3, 8: 8e-3, 32: 3e-2}),
    *matmuls("torch dense cpu", {1: 4e-3, 8: 5e-3, 32: 6e-3}),
    row("mlx-dequant bridge", 1e-5, case="to_torch", format="", layer="64 MB"),
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
COMPLAINT = re.compile(r"CONSOLE[:(].*")


@pytest.fixture(scope="module")
def browser():
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip("no Chromium was found")
    return found


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page: the DOM after its script ran, and what the console heard."""

    def run(text: str) -> tuple[str, list[str]]:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, COMPLAINT.findall(done.stderr)

    return run


class Tags(HTMLParser):
    """Tags that are opened and closed, and attributes that name something to fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.wanted: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link"):
            self.open.append(tag)
        self.wanted += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_whole():
    text = html_report(result(ROWS))
    tags = Tags(text)
    assert tags.open == []
    assert tags.wanted == ["data:,"]
    assert "{{" not in text.replace("${{", "")
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert text.count("<script") == 2  # a name cannot open another


def test_chromium_draws_it_without_a_complaint(opened):
    dom, complaints = opened(html_report(result(ROWS)))
    assert complaints == []
    assert "<title>mlx-dequant bench</title>" in dom
    assert len(re.findall("<svg", dom)) == 6  # a case each, and one of lines
    assert len(re.findall("<polyline", dom)) == 2
    assert "13 of 13 rows" in dom
    assert "gguf-py: wrong, 1 of 4 values differ" in dom
    assert re.search(r"from about \d rows of x on, torch dense cpu is faster than mlx-dequant host", dom)
    assert re.search("NaN|undefined|Infinity", dom.partition("<script")[0]) is None


def test_filters_filter(opened):
    choose = "const s = document.querySelector('select'); s.value = 'linear'; s.onchange();"
    dom, complaints = opened(html_report(result(ROWS)).replace("</body>", f"<script>{choose}</script></body>"))
    assert complaints == []
    assert "6 of 13 rows" in dom
    assert len(re.findall("<svg", dom)) == 4


@pytest.mark.parametrize(
    "planted",
    [
        "<script>nothing.here()</script>",
        '<img src="https://example.com/a.png">',
        "<script>fetch('https://x.org')</script>",
    ],
)
def test_an_error_or_an_outside_request_would_be_heard(opened, planted):
    _, complaints = opened(html_report(result(ROWS)).replace("</body>", f"{planted}</body>"))
    assert complaints != []
