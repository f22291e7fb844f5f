"""The whole check of one program: its characters, clang's diagnostics, the lint, Metal's limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from clang.cindex import CursorKind as Kind
from clang.cindex import Diagnostic, TypeKind

from .front_end import parse
from .lint import Node, lint, nodes

THREADGROUP_BYTES = 32 * 1024
CONSTANT_BYTES = 64 * 1024
BUFFERS = 31
THREADS = 1024
GRID = 2**31 - 1


def check(text: str, preamble: str = "") -> list[str]:
    """What Metal would refuse in `text`, a program as MLX prints it or several behind one header; with places.

    Args:
        preamble: what comes before it; MLX's by default.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.isascii():
            return [f"{_place(text, number)}: not ASCII: {line.strip()}"]
    unit = parse(text, preamble)
    faults = [(d.location.line, d.spelling) for d in unit.diagnostics if d.severity >= Diagnostic.Warning]
    tree = nodes(unit)
    faults += lint(tree, unit)
    faults += _limits(tree)
    return [f"{_place(text, line)}: {what}" for line, what in sorted(set(faults))]


def check_launch(grid: tuple[int, ...], threadgroup: tuple[int, ...]) -> list[str]:
    """What Metal would refuse in a launch's sizes, or cut short without a word."""
    faults: list[str] = []
    threads = math.prod(threadgroup)
    if not 0 < threads <= THREADS:
        faults.append(f"found {threads} threads a threadgroup, Metal has at most {THREADS}")
    if threads % 32:
        faults.append(f"found {threads} threads a threadgroup, expected whole SIMD groups of 32")
    if max(grid) > GRID:
        faults.append(f"found a grid of {grid}, MLX takes at most {GRID} along an axis")
    return faults


def _limits(tree: list[Node]) -> Iterator[tuple[int, str]]:
    variables = [node.cursor for node in tree if node.kind == Kind.VAR_DECL]
    tables = [v for v in variables if re.match("(const )?__constant ", v.type.spelling)]
    if (size := sum(v.type.get_size() for v in tables)) > CONSTANT_BYTES:
        yield tables[-1].location.line, f"found {size} bytes of tables, expected at most {CONSTANT_BYTES}"
    shared: dict[str, int] = {}
    for node in tree:
        if node.kind == Kind.VAR_DECL and node.cursor.type.spelling.startswith("__local "):
            shared[node.function] = shared.get(node.function, 0) + node.cursor.type.get_size()
            if shared[node.function] > THREADGROUP_BYTES:
                what = f"found {shared[node.function]} bytes of threadgroup memory, Metal has {THREADGROUP_BYTES}"
                yield node.cursor.location.line, what
    for kernel in (node.cursor for node in tree if node.outermost and node.kind == Kind.FUNCTION_DECL):
        buffers = sum(p.type.get_pointee().kind != TypeKind.INVALID for p in kernel.get_arguments())
        if buffers > BUFFERS:
            yield kernel.location.line, f"found {buffers} buffers, Metal has {BUFFERS}"


def _place(text: str, line: int) -> str:
    """The file and line that `#line` gave a line of the text."""
    name, offset = "program", 0
    for number, content in enumerate(text.splitlines()[:line], 1):
        if mark := re.match(r'#line (\d+) "(.+)"', content):
            name, offset = mark[2], int(mark[1]) - number - 1
    return f"{name}:{line + offset}"
