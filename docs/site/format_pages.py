"""A hook of mkdocs that makes formats/*.md: a page for each shader, which shows the picture in its first comment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_dequant import Format, formats

METAL = Path(__file__).parents[2] / "metal"
REPOSITORY = "https://github.com/mlx-dequant/mlx-dequant/blob/main/metal"


def first_comment(shader: Path) -> str:
    """The comment that a shader begins with, without its slashes."""
    (comment,) = re.findall(r"\A((?://.*\n)*)", shader.read_text())
    return re.sub(r"^// ?", "", comment, flags=re.MULTILINE).strip("\n")


def shared_pictures(shader: Path) -> Iterator[str]:
    """The first comments of what it includes from its own folder, where they are more than a title."""
    for name in re.findall(r'^#include "([\w.]+)"$', shader.read_text(), re.MULTILINE):
        comment = first_comment(shader.parent / name)
        if comment.count("\n") > 1:
            yield comment


def title(forms: list[Format]) -> str:
    """Q4_K for a format of its own; GPTQ for one shader of several numbers of bits."""
    return forms[0].title.rpartition(" ")[0] or forms[0].title


def page(source: str, forms: list[Format]) -> str:
    """The page of the formats that one shader decodes."""
    shader = METAL / source
    picture, *others = [first_comment(shader), *shared_pictures(shader)]
    lines = [f"# {title(forms)}", "", *table(forms), "", "## Layout", ""]
    for comment in (picture, *others):
        lines += ["```text", comment, "```", ""]
    lines += [
        "`w` is the weight and `q` its code. Bytes count from the start of a block, and words are little-endian. This",
        f"text is the first comment of [metal/{source}]({REPOSITORY}/{source}), which decodes the format.",
        "",
    ]
    return "\n".join(lines)


def table(forms: list[Format]) -> list[str]:
    """Facts of the registry."""
    if forms[0].family == "gguf":
        head = ["| name | weights a block | bytes a block | bits a weight | ggml type |", "|---|---|---|---|---|"]
        rows = [(f.name, f.weights, f.bytes, f"{8 * f.bytes / f.weights:g}", f.ggml_type) for f in forms]
    else:
        head = ["| name | bits of a code |", "|---|---|"]
        rows = [(f.name, f.bits) for f in forms]
    return head + [f"| {' | '.join(map(str, row))} |" for row in rows]


def index(by_shader: dict[str, list[Format]]) -> str:
    """The table of all formats."""
    lines = [
        "# Formats",
        "",
        "A format's page shows where its bits are, and the formula that makes weights of them.",
        "",
    ]
    lines += ["| format | family | bits a weight |", "|---|---|---|"]
    for source, forms in by_shader.items():
        for form in forms:
            bits = f"{8 * form.bytes / form.weights:g}" if form.weights else f"{form.bits}, and those of scales"
            lines.append(f"| [{form.title}]({Path(source).stem}.md) | {form.family} | {bits} |")
    return "\n".join([*lines, ""])


def pages() -> dict[str, str]:
    """All pages, by their path in the site."""
    by_shader: dict[str, list[Format]] = {}
    for form in formats().values():
        by_shader.setdefault(form.source, []).append(form)
    made = {f"formats/{Path(source).stem}.md": page(source, forms) for source, forms in by_shader.items()}
    return made | {"formats/index.md": index(by_shader)}


def on_files(files: Any, config: Any) -> Any:
    """mkdocs calls this when it has found the pages that are files."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
