"""Models of a GGUF file, timed in turn: each in a process of its own on a CPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import pytest

pytest.importorskip("mlx_lm", reason="models are mlx-lm's")
pytest.importorskip("torch", reason="torch is not installed")

from lm_models import transformers_model, write_gguf

import mlx_dequant as mxd
from mlx_dequant.bench import file_models, processes
from mlx_dequant.bench.models import Kind
from mlx_dequant.bench.processes import Process
from mlx_dequant.bench.runners import LlamaModel
from mlx_dequant.cli import main


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "small.gguf"
    write_gguf(path, "llama", transformers_model("llama"))
    return path


@pytest.fixture
def made(monkeypatch):
    """What processes would have been made; with a BLAS and llama.cpp, unless changed."""
    asked = []

    class Fake:
        def __init__(self, *arguments):
            asked.append(arguments)
            self.blas = "a library"

        def tokens(self, count):
            while True:
                yield [0] * count

        def prompt(self, count):
            asked.append(count)

        def wait(self):
            pass

        def is_finite(self):
            return True

    monkeypatch.setattr(file_models, "Process", Fake)
    monkeypatch.setattr(file_models, "openblas", lambda: "libopenblas.so.0")
    monkeypatch.setattr(file_models, "find_spec", lambda name: name)
    monkeypatch.setattr(mxd, "current_backend", lambda: "host", raising=False)
    return asked


def options(path, *providers, fuse=False):
    providers = providers or ("mlx-dequant", "mlx", "torch", "llama-cpp-python")
    return SimpleNamespace(model=str(path), providers=providers, layers=None, formats=None, head=None, fuse=fuse)


def test_each_model_has_a_process(path, made, tmp_path, capsys):
    result = tmp_path / "a.json"
    few = ["--prompts", "3", "--tokens", "2", "--rounds", "1"]
    assert main(["bench", "decode", "--model", str(path), *few, "--json", str(result)]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [(row["provider"], row["format"], row["blas"]) for row in rows] == [
        ("mlx-dequant", "q8_0", "a library"),
        ("mlx-dequant int8", "q8_0", "a library"),
        ("mlx-dequant with OpenBLAS", "q8_0", "a library"),
        ("mlx", "dense", "a library"),
        ("mlx with OpenBLAS", "dense", "a library"),
        ("llama-cpp-python", "q8_0", "a library"),
    ]
    assert all(row["decode_tokens_per_second"] > 0 and row["prompt_tokens_per_second"]["3"] > 0 for row in rows)
    started = [one for one in made if one != 3]
    assert [(provider, *rest) for provider, file, *rest in started] == [
        ("mlx-dequant", "float32", "", "float32"),
        ("mlx-dequant", "float32", "", "int8"),
        ("mlx-dequant", "float32", "libopenblas.so.0", "float32"),
        ("mlx", "float32", "", "float32"),
        ("mlx", "float32", "libopenblas.so.0", "float32"),
        ("llama-cpp-python", "float32", "", "float32"),
    ]


def test_who_is_not_here_is_named(path, made, monkeypatch):
    monkeypatch.setattr(file_models, "openblas", lambda: "")
    monkeypatch.setattr(file_models, "find_spec", lambda name: None)
    _, candidates, absent = file_models.found(options(path), mx.float32)
    assert [*candidates] == [Kind("mlx-dequant", "q8_0"), Kind("mlx-dequant int8", "q8_0"), Kind("mlx", "dense")]
    assert absent == {
        "mlx-dequant with OpenBLAS": "found no libopenblas with cblas_sgemm (Debian: libopenblas0-pthread)",
        "mlx with OpenBLAS": "found no libopenblas with cblas_sgemm (Debian: libopenblas0-pthread)",
        "llama-cpp-python": "not installed",
    }


def test_fused_models_stand_beside_the_others(path, made, monkeypatch):
    for backend in ("host", "metal"):
        monkeypatch.setattr(mxd, "current_backend", lambda backend=backend: backend, raising=False)
        _, candidates, _ = file_models.found(options(path, "mlx-dequant", fuse=True), mx.float32)
        assert [*candidates][:2] == [Kind("mlx-dequant", "q8_0"), Kind("mlx-dequant", "q8_0", fused=True)]
        assert all(candidate.make() for candidate in [*candidates.values()][:2])
    assert [provider for provider, *_ in made] == ["mlx-dequant", "mlx-dequant-fused"]


def test_a_format_that_x_is_not_rounded_for(path, made, monkeypatch):
    monkeypatch.setattr(file_models, "_main_format", lambda file: "iq2_xs")
    _, candidates, _ = file_models.found(options(path, "mlx-dequant"), mx.float32)
    assert [kind.provider for kind in candidates] == ["mlx-dequant", "mlx-dequant with OpenBLAS"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_process_is_told_its_precision(monkeypatch, precision):
    told = []

    def start(command, *, env, **options):
        told.append(env["MLX_DEQUANT_PRECISION"])
        raise OSError("not started")

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    with pytest.raises(OSError, match="not started"):
        Process("mlx-dequant", "small.gguf", "float32", precision=precision)
    assert told == [precision]


def test_providers_are_chosen(path, made):
    _, candidates, _ = file_models.found(options(path, "mlx"), mx.float32)
    assert [kind.provider for kind in candidates] == ["mlx", "mlx with OpenBLAS"]
    with pytest.raises(mxd.FormatError, match="--providers: found torch, expected mlx-dequant, mlx or llama-cpp"):
        file_models.found(options(path, "torch"), mx.float32)


def test_a_gpu_has_the_models_in_this_process(path, made, monkeypatch):
    monkeypatch.setattr(mxd, "current_backend", lambda: "metal", raising=False)
    _, candidates, absent = file_models.found(options(path), mx.float32)
    assert ([kind.provider for kind in candidates], absent, made) == (["mlx-dequant", "mlx"], {}, [])


def test_a_process_answers_fails_and_ends(path):
    runner = Process("mlx-dequant", path, "float32")
    process = runner._process
    answer = runner.tokens(2)
    first = [next(answer), next(answer)]
    again = runner.tokens(4)
    assert [*first[0], *first[1]] == next(again) and all(0 <= token < 300 for pair in first for token in pair)
    assert runner.is_finite()
    runner.prompt(5)
    runner.wait()
    with pytest.raises(RuntimeError, match=r"^AttributeError: .*'nothing'"):
        runner._ask("nothing")
    process.kill()
    with pytest.raises(RuntimeError, match=r"^its process ended with status -9$"):
        runner.wait()


@pytest.mark.full
def test_a_process_ends_with_its_runner(path):
    runner = Process("mlx", path, "float32")
    process = runner._process
    del runner
    assert process.returncode == 0


@pytest.mark.full
def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RuntimeError, match=r"^FileNotFoundError: .*none\.gguf"):
        Process("mlx", tmp_path / "none.gguf", "float32")


@pytest.mark.full
def test_openblas_takes_the_place_of_mlxs(path):
    library = file_models.openblas()
    if not library:
        pytest.skip("no libopenblas was found")
    assert "openblas" in Process("mlx", path, "float32", library).blas
    assert "openblas" not in Process("mlx", path, "float32").blas


@pytest.mark.parametrize("name", [None, "libc.so.6", "no library"])
def test_a_library_without_cblas_is_none(monkeypatch, name):
    monkeypatch.setattr("ctypes.util.find_library", lambda asked: name)
    assert file_models.openblas() == ""


def test_llama_cpp(path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    count = processes._vocabulary(path)
    runner = LlamaModel(path, count, context=256)
    assert all(0 <= token < count for token in next(runner.tokens(3)))
    runner.prompt(100)
    assert runner.is_finite()
