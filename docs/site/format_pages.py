"""Makes formats/*.md: a page for each shader of a format, which shows the picture in its first comment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mkdocs_gen_files

from mlx_dequant import Format, formats

METAL = Path(__file__).parents[2] / "metal"
REPOSITORY = "https://github.com/mlx-dequant/mlx-dequant/blob/main/metal"
TYPE = {
    "awq": "int32 words and a scale for each group",
    "gptq": "int32 words and a scale for each group",
    "gguf": "blocks of bytes",
}


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
        f"`w` is the weight and `q` its code. Bytes are counted from the start of a block, and words are little-endian. "
        f"This text is the first comment of [metal/{source}]({REPOSITORY}/{source}), which decodes the format.",
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


def index(pages: dict[str, list[Format]]) -> str:
    """The table of all formats."""
    lines = ["# Formats", "", "Each page shows where the bits of a format are. Scales and zero points are counted in", ""]
    lines[-2] = "Each page shows where the bits of a format are, and the formula that makes weights of them."
    lines += ["| format | family | bits a weight |", "|---|---|---|"]
    for source, forms in pages.items():
        for form in forms:
            bits = f"{8 * form.bytes / form.weights:g}" if form.weights else f"{form.bits}, scales and zero points aside"
            lines.append(f"| [{form.title}]({Path(source).stem}.md) | {form.family} | {bits} |")
    return "\n".join([*lines, ""])


by_shader: dict[str, list[Format]] = {}
for form in formats().values():
    by_shader.setdefault(form.source, []).append(form)
for source, forms in by_shader.items():
    with mkdocs_gen_files.open(f"formats/{Path(source).stem}.md", "w") as file:
        file.write(page(source, forms))
with mkdocs_gen_files.open("formats/index.md", "w") as file:
    file.write(index(by_shader))
