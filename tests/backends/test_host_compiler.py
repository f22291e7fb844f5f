"""Which compiler is used, and what happens without one that works."""

import importlib.util
import sys
import warnings
from types import SimpleNamespace

import mlx.core as mx
import pytest
from support import assert_same, bits, gguf_fixture

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.host import compiler

BLOCKS, EXPECTED = gguf_fixture("q4_0")["adv"]


def script(folder, name, body):
    """A compiler that tells its version, then runs `body`."""
    path = folder / name
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo {name} 1.0; exit 0; fi\n{body}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def alone(fresh, tmp_path, monkeypatch):
    """No compiler at all: an empty PATH, nothing in CXX, no ziglang. The folder is the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("MLX_DEQUANT_BACKEND", raising=False)
    find = importlib.util.find_spec
    missing = {"ziglang"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in missing else find(name, *more))
    return folder


def falls_back(match):
    """Dequantizes by two programs, twice each: each warns once, and gives the reference's weights."""
    weight = mxd.GGUFWeight(BLOCKS, "Q4_0")
    with mxd.use_backend("host"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dtype in (mx.float32, mx.float16, mx.float32, mx.float16):
            found = weight.dequantize(dtype)
            assert_same(found.astype(mx.float32), bits(mx.array(EXPECTED).astype(dtype).astype(mx.float32)))
    assert [one.category for one in caught] == [RuntimeWarning] * 2
    for one in caught:
        said = str(one.message)
        assert said.startswith("mlx-dequant: dequantize q4_0 could not be compiled and runs slowly instead: "), said
        assert match in said, said


def test_a_compiler_that_fails(alone, monkeypatch):
    monkeypatch.setenv("CXX", script(alone, "broken", "echo this is what it says >&2; exit 1"))
    assert "host" in mxd.available_backends()
    falls_back("broken said: this is what it says")


def test_a_compiler_that_hangs(alone, monkeypatch):
    monkeypatch.setenv("CXX", script(alone, "stuck", "exec /bin/sleep 60"))
    monkeypatch.setattr(compiler, "PATIENCE", 0.2)
    falls_back("timed out after 0.2 seconds")


def test_a_compiler_that_writes_nothing(alone, monkeypatch):
    monkeypatch.setenv("CXX", script(alone, "idle", "exit 0"))
    falls_back("program.so")


def test_a_compiler_that_writes_something_else(alone, monkeypatch):
    body = 'for last; do :; done; echo not a program > "$last"'
    monkeypatch.setenv("CXX", script(alone, "liar", body))
    falls_back(".so")


def test_without_a_compiler_the_reference_is_used(alone):
    if set(mxd.available_backends()) & {"metal", "cuda"}:
        pytest.skip("a GPU is used before the reference")
    assert compiler.compiler() is None
    assert mxd.available_backends() == ["reference"]
    weight = mxd.GGUFWeight(BLOCKS, "Q4_0")
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler .*pip install ziglang") as caught:
        for _ in range(3):
            assert_same(weight.dequantize(mx.float32), bits(EXPECTED))
    assert len(caught) == 1
    with pytest.raises(ValueError, match="'host' does not work here; available: reference"), mxd.use_backend("host"):
        pass


@pytest.mark.parametrize("installed", [True, False])
def test_a_mac_is_not_asked_to_install_developer_tools(alone, monkeypatch, installed):
    ran = []

    def run(command, **options):
        ran.append(command[0])
        return SimpleNamespace(returncode=0 if installed else 2, stdout="Apple clang 17")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(compiler, "shutil", SimpleNamespace(which=lambda name: f"/usr/bin/{name}"))
    monkeypatch.setattr(compiler, "subprocess", SimpleNamespace(run=run))
    found = compiler.compiler()
    assert (found is not None) == installed
    assert set(ran) == {"/usr/bin/xcode-select", *(["clang++"] if installed else [])}


def test_the_compiler_is_not_looked_for_where_a_gpu_works(fresh, monkeypatch):
    monkeypatch.delenv("MLX_DEQUANT_BACKEND", raising=False)
    monkeypatch.setattr(backends.metal, "available", lambda: True)
    monkeypatch.setattr(backends.host, "available", lambda: pytest.fail("it looks for a compiler"))
    assert mxd.current_backend() == "metal"
    with mxd.use_backend("reference"):
        assert mxd.current_backend() == "reference"


def test_the_order_of_compilers(alone, monkeypatch):
    """$CXX with its arguments, clang++, g++; one that is missing or cannot tell its version is passed over."""

    def found():
        compiler.compiler.cache_clear()
        return compiler.compiler().command

    script(alone, "g++", "")
    assert found() == ("g++",)
    script(alone, "clang++", "")
    assert found() == ("clang++",)
    monkeypatch.setenv("CXX", f"{script(alone, 'mine', '')} -pipe")
    assert found() == (str(alone / "mine"), "-pipe")
    monkeypatch.setenv("CXX", "nowhere++")
    assert found() == ("clang++",)
    (alone / "clang++").write_text("#!/bin/sh\nexit 1\n")
    assert found() == ("g++",)
    (alone / "clang++").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(compiler, "PATIENCE", 0.2)
    assert found() == ("g++",)


def test_ziglang_is_the_last(alone, monkeypatch):
    monkeypatch.undo()
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the ziglang package is not installed")
    monkeypatch.setenv("PATH", str(alone))
    monkeypatch.delenv("CXX", raising=False)
    compiler.compiler.cache_clear()
    tool = compiler.compiler()
    assert tool.command == (sys.executable, "-m", "ziglang", "c++")
    assert "-march=native" not in tool.flags
