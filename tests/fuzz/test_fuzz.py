"""Damaged files, driven by hypothesis; and what finds faults finds the ones put there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_dequant as mxd

from . import __main__ as driver
from . import edits, targets

ROOT = Path(__file__).parents[2]
# How many inputs hypothesis makes for each target: those that take long get fewer.
EXAMPLES = {"gguf": 150, "safetensors": 400, "folder": 150, "weights": 300, "tokenizer": 40}
SEEDS = [(name, path) for name in targets.TARGETS for path in sorted((driver.CORPUS / name).iterdir())]

contents = st.one_of(
    st.sampled_from(edits.WORDS),
    st.binary(min_size=1, max_size=4),
    st.tuples(st.sampled_from(edits.NUMBERS), st.sampled_from([1, 2, 4, 8])).map(
        lambda pair: (pair[0] % 256 ** pair[1]).to_bytes(pair[1], "little")
    ),
)
damage = st.lists(
    st.builds(
        edits.Edit, st.sampled_from(edits.KINDS), st.floats(0, 1, exclude_max=True), st.integers(1, 999), contents
    ),
    min_size=1,
    max_size=4,
)


def skip_without(name: str) -> None:
    if name == "tokenizer":
        pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")


@pytest.mark.parametrize(("name", "path"), SEEDS, ids=[f"{name}-{path.stem}" for name, path in SEEDS])
def test_the_corpus(name, path, monkeypatch):
    """Each file of it is tried; but for one that was a finding, it opens."""
    skip_without(name)
    refusals = []

    def seen(call):
        try:
            return call()
        except mxd.FormatError as error:
            refusals.append(str(error))

    monkeypatch.setattr(targets, "_refused", seen)
    targets.TARGETS[name](path.read_bytes())
    findings = ("awq-infinite-scale", "long-rows", "odd-byte-token", "types", "unknown-to-the-end")
    assert path.stem in findings or name == "weights" or not refusals


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_damage_is_refused_or_read(name):
    skip_without(name)
    good = driver.seeds(name)
    targets.TARGETS[name](good[0])  # compiles and imports

    @settings(max_examples=EXAMPLES[name], deadline=None)
    @given(st.sampled_from(good), damage)
    def one_input(data, changes):
        assert driver.attempt(name, edits.apply(data, changes)) == ""

    one_input()


@pytest.mark.parametrize("name", ["gguf", "safetensors", "folder"])
def test_a_file_cut_anywhere(name):
    """At every byte; `make test` tries one file of each kind."""
    for data in driver.seeds(name)[:1]:
        for length in range(0, len(data), 1 if name != "folder" else 3):
            assert driver.attempt(name, data[:length]) == "", length


def bad_target(data: bytes) -> None:
    kind = data[:1]
    if kind == b"h":
        while True:
            pass
    if kind == b"m":
        bytearray(1 << 30)
    if kind == b"v":
        assert data == b"", "a wrong value"


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (b"h", "Hang: more than 1 s"),
        pytest.param(b"m", "MemoryError", marks=only_linux),
        (b"v", "a wrong value"),
    ],
)
def test_a_fault_is_found(kind, message, monkeypatch):
    monkeypatch.setitem(targets.TARGETS, "bad", bad_target)
    monkeypatch.setattr(driver, "PATIENCE", 1)
    driver._limit(driver.ROOM)
    try:
        assert message in driver.attempt("bad", kind)
        assert driver.attempt("bad", b"well") == ""
    finally:
        driver._limit(0)


def test_edits_are_of_every_kind_and_change_files():
    random = Random(0)
    tried = [edits.some(random) for _ in range(500)]
    assert {edit.kind for each in tried for edit in each} == set(edits.KINDS)
    data = driver.seeds("folder")[0]
    assert sum(edits.apply(data, each) != data for each in tried) > 450
    assert all(isinstance(edits.apply(b"", each), bytes) for each in tried)


@pytest.mark.full
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--random", "--seconds", "2", "--target", "safetensors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"inputs tried: (\d+)$", done.stdout.strip())[0]) > 10
