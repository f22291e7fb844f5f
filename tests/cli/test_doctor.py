"""The doctor finds this machine well, and would tell if it were not."""

import json
import re

import emulator
import mlx.core as mx
import numpy as np
import pytest
from devices import exact_matmul

import mlx_dequant as mxd
from mlx_dequant import backends, kernel_source
from mlx_dequant.backends.host import compiler
from mlx_dequant.cli import doctor as command
from mlx_dequant.cli import main
from mlx_dequant.diagnostics import checks

needs_compiler = pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler was found")
FORMATS = mxd.formats()


@pytest.fixture
def quick(monkeypatch):
    """Small timings, and few rows."""
    monkeypatch.setattr(checks, "SIZE", 256)
    monkeypatch.setattr(checks, "HEIGHTS", (70,))


def run(capsys, *arguments):
    """The exit status and the text of `mlx-dequant doctor`."""
    status = main(["doctor", *arguments])
    return status, capsys.readouterr().out


@needs_compiler
def test_a_report(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "SIZE", 256)
    result = tmp_path / "result.json"
    status, text = run(capsys, "--backend", "host", "--format", "q4_k", "--format", "gptq3", "--json", str(result))
    assert status == 0, text
    assert re.search(r"\nhost: 2 formats, \d+ checks, [\d,]+ numbers, 0 checks failed\n", text)
    assert "WRONG" not in text and "all is well" in text
    assert re.search(r"q4_k +256 x 256: dequantized in \d", text)
    report = json.loads(result.read_text())
    assert report["failed"] == 0
    assert {check["format"] for check in report["backends"]["host"]["checks"]} == {"q4_k", "gptq3"}
    assert [timing["format"] for timing in report["backends"]["host"]["timings"]] == ["q4_k"]
    assert all(check["results"] > 0 for check in report["backends"]["host"]["checks"])


BROKEN = {
    "fails": ("echo no memory >&2; exit 1", "said: no memory"),
    "hangs": ("exec /bin/sleep 60", "timed out after 0.2 seconds"),
    "is killed": ("kill -9 $$", "said: "),
    "writes garbage": ('for last; do :; done; echo no program > "$last"', "trial.so"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_compiler_is_told_at_once(fault, capsys, fresh, tmp_path, monkeypatch):
    body, said = BROKEN[fault]
    fake = tmp_path / "broken"
    fake.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo broken 1.0 && exit 0\n{body}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setattr(command, "_bridge", lambda: [])
    compiler.compiler()
    monkeypatch.setattr(compiler, "PATIENCE", 0.2 if fault == "hangs" else 60)
    status, text = run(capsys, "--backend", "host")
    assert status == 1
    assert said in text and "WRONG host a small program: " in text and "; set CXX to another compiler" in text
    assert "1 checks FAILED" in text


@needs_compiler
@pytest.mark.parametrize("fault", ["a file", "open to all", "nowhere"])
def test_a_broken_cache_is_told(fault, capsys, fresh, monkeypatch):
    if fault == "a file":
        fresh.write_text("a file")
    elif fault == "open to all":
        fresh.mkdir()
        fresh.chmod(0o777)
    else:
        monkeypatch.setenv("MLX_DEQUANT_CACHE", "/proc/mlx-dequant")  # where nobody can write
    monkeypatch.setattr(command, "_bridge", lambda: [])
    status, text = run(capsys, "--backend", "host")
    assert status == 1
    assert re.search(r"WRONG host a small program: .*; set CXX .* or MLX_DEQUANT_CACHE to another folder", text)


def planted(monkeypatch, file, right, wrong):
    """A mistake in a file of the shaders, as if it were written there."""
    read = kernel_source._read
    path = (kernel_source.METAL / file).resolve()
    assert right in read(path)
    monkeypatch.setattr(kernel_source, "_read", lambda at: read(at).replace(right, wrong) if at == path else read(at))


@pytest.fixture
def metal(monkeypatch):
    """The emulator as the Metal backend; programs are made anew."""
    if compiler.compiler() is None:
        pytest.skip("no C++ compiler to run kernels with")
    kernel_source.kernel_source.cache_clear()
    with exact_matmul(), emulator.metal():
        yield
    kernel_source.kernel_source.cache_clear()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["q4_0", pytest.param("gptq4", marks=pytest.mark.full)])
def test_right_kernels_are_found_right(name, metal, capsys):
    results = list(checks.checks(FORMATS[name]))
    assert results and not [check for check in results if check.problem]
    assert {check.what.partition(" ")[0] for check in results} == {"dequantize", "take,", "matmul"}


@pytest.mark.full
@pytest.mark.usefixtures("quick")
def test_a_wrong_format_is_told(metal, capsys, monkeypatch):
    planted(monkeypatch, "formats/gguf/q4_0.metal", "block + 2 + first % 16", "block + 1 + first % 16")
    status, text = run(capsys, "--backend", "metal", "--format", "q4_0")
    assert status == 1
    assert re.search(r"WRONG q4_0 dequantize to float32, .*: [\d,]+ of [\d,]+, at \(0, \d+\) found .*, expected", text)
    assert re.search(r"\d+ checks FAILED", text)


PLANTED = {
    "qmv": ("kernels/qmv.metal", "results<F>::place(loader, row + r)] = T(total)", "matmul of 1"),
    "qvm": (
        "kernels/qvm.metal",
        "results<F>::place(loader, first + k)] = T(total)",
        "matmul without transpose of 1",
    ),
    "gather_rows": ("kernels/gather_rows.metal", "out[k] = T(w[k])", "take, "),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kernel", PLANTED)
def test_a_wrong_kernel_is_told(kernel, metal, monkeypatch):
    """Results a thousandth too large, in one kernel: its checks fail, and no others."""
    file, right, what = PLANTED[kernel]
    planted(
        monkeypatch, file, right, right.replace("T(total)", "T(total * 1.001f)").replace("T(w[k])", "T(w[k] * 1.001f)")
    )
    wrong = [check.what for check in checks.checks(FORMATS["q8_0"]) if check.problem]
    kind = what.rpartition(" ")[0].partition(" of")[0]
    assert any(found.startswith(what) for found in wrong)
    assert all(found.startswith(kind) for found in wrong)


@pytest.mark.usefixtures("quick")
def test_a_mistake_of_the_text_is_told(metal, monkeypatch):
    planted(monkeypatch, "formats/gguf/q4_0.metal", "return load_f16(block);", "return nowhere;")
    results = list(checks.checks(FORMATS["q4_0"]))
    assert all("BuildError" in check.problem for check in results)


@pytest.mark.full
@needs_compiler
@pytest.mark.usefixtures("quick")
def test_flushed_subnormals_are_counted_apart(capsys, monkeypatch):
    monkeypatch.setattr(checks, "TIMED", ())
    with emulator.metal(flush=True):
        status, text = run(capsys, "--backend", "metal", "--format", "mxfp4")
    assert status == 0, text
    assert re.search(r"[1-9][\d,]* subnormal numbers came as zeros", text)


def test_a_zero_for_a_subnormal_is_wrong_elsewhere(monkeypatch):
    found = {}
    for backend in ("host", "metal"):
        monkeypatch.setattr(backends, "current_backend", lambda backend=backend: backend)
        found[backend] = checks._compared(mx.array([0.0]), np.array([1e-40], np.float32))
    assert (found["host"].wrong, found["host"].flushed) == (1, 0)
    assert (found["metal"].wrong, found["metal"].flushed) == (0, 1)


def test_a_bridge_that_fails_is_told(capsys, monkeypatch):
    monkeypatch.setattr(command, "_backends", lambda asked: [])
    monkeypatch.setattr(
        command, "_bridge", lambda: [("It crosses", False, "stale numbers"), ("It shares", True, "on cpu")]
    )
    status, text = run(capsys)
    assert status == 1
    assert "WRONG  It crosses: stale numbers" in text and "holds  It shares: on cpu" in text
    assert "1 checks FAILED" in text


def test_nothing_to_examine(capsys, monkeypatch):
    monkeypatch.setattr(command, "_backends", lambda asked: [])
    monkeypatch.setattr(command, "_bridge", lambda: [])
    status, text = run(capsys)
    assert status == 2
    assert "nothing to examine" in text


@pytest.mark.parametrize(("argument", "name"), [("--format", "q9"), ("--backend", "reference")])
def test_what_cannot_be_examined(argument, name, capsys):
    assert main(["doctor", argument, name]) == 2
    assert name in capsys.readouterr().err
