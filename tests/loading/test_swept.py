"""Every number of a header at its edges, and every tensor of every layout with other shapes and types: each is refused
by FormatError, or read right."""

from __future__ import annotations

import json
import struct

import pytest
from fuzz import __main__ as driver
from fuzz.edits import SEPARATOR

from mlx_dequant.loading.safetensors import SIZES

FOLDERS = sorted((driver.CORPUS / "folder").iterdir())
FILES = [path for path in sorted((driver.CORPUS / "gguf").iterdir()) if path.stem in ("keys", "big-endian", "types-0")]
NUMBERS = {4: (0, 1, 2**31 - 1, 2**31, 2**32 - 1), 8: (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)}


def _shapes(shape: list[int]):
    yield from ([], [0], [1], [*shape, 1], [1, *shape], shape[:-1], shape[1:], [0] * len(shape), shape[::-1])
    yield from ([2**31 - 1, 0], [0, 2**31 - 1], [1 << 20, 0])
    for axis, length in enumerate(shape):
        for other in (0, 1, 2, 3, length - 1, length + 1, length * 2, length // 2, 31, 33):
            yield [*shape[:axis], max(other, 0), *shape[axis + 1 :]]


def _changes(row):
    """Other rows in the place of one; None for no tensor."""
    yield None
    for shape in _shapes(row["shape"]):
        yield row | {"shape": shape}
    for kind in (*SIZES, "F4", ""):
        yield from (row | {"dtype": kind, "shape": shape} for shape in (row["shape"], [], [0], [2, 2]))


def _swept(path, step: int) -> None:
    config, index, header, data = path.read_bytes().split(SEPARATOR, 3)
    rows = json.loads(header)
    changed = [(name, row) for name in rows for row in _changes(rows[name])]
    for name, row in changed[::step]:
        new = {key: old for key, old in (rows | {name: row}).items() if old is not None}
        content = SEPARATOR.join([config, index, json.dumps(new).encode(), data])
        assert driver.attempt("folder", content) == "", (name, row)


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_other_shapes_and_types(path):
    _swept(path, 11)


@pytest.mark.full
@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_all_other_shapes_and_types(path):
    _swept(path, 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.full)])
def test_numbers_of_a_gguf_header(path, step):
    """At every place (in `make test` at some): most are no number of the header, which makes no difference."""
    content, order = path.read_bytes(), "<>"["big" in path.stem]
    for place in range(4, len(content) - 8, step):
        for size, values in NUMBERS.items():
            for value in values:
                packed = struct.pack(f"{order}{'I' if size == 4 else 'Q'}", value)
                data = content[:place] + packed + content[place + size :]
                assert driver.attempt("gguf", data) == "", (place, size, value)


@pytest.mark.parametrize(
    "value", [0, 1, -1, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 1e308, 0.5, True, None, "4", [], {}]
)
def test_numbers_of_configs(value):
    """Every number of every config, and every length and offset of a header."""
    for path in FOLDERS:
        parts = path.read_bytes().split(SEPARATOR, 3)
        for at in (0, 2):
            root = json.loads(parts[at])
            for node, key in _numbers(root):
                old, node[key] = node[key], value
                content = SEPARATOR.join([*parts[:at], json.dumps(root).encode(), *parts[at + 1 :]])
                node[key] = old
                assert driver.attempt("folder", content) == "", (path.name, key)


def _numbers(node):
    """The places of all numbers in a JSON value."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        if isinstance(node[key], (int, float)):
            yield node, key
        yield from _numbers(node[key])
