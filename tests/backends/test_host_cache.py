"""The host's cache of compiled programs: private, whole, keyed by all that the result depends on."""

import ctypes
import hashlib
import os
import stat
import subprocess
import sys

import pytest

from mlx_dequant.backends.host import compiler
from mlx_dequant.disk_cache import cache_folder

pytestmark = pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler was found")

TEXT = 'extern "C" int answer() { return 42; }\n'


def build(text=TEXT, contract=False):
    return compiler.compiled("answer", text, contract)


def answer(path):
    return ctypes.CDLL(str(path)).answer()


def sum_of(path):
    return path.with_suffix(".sha256")


def test_it_is_compiled_once_into_a_private_folder(fresh, monkeypatch):
    path = build()
    assert answer(path) == 42
    assert {file.name for file in fresh.iterdir()} == {path.name, sum_of(path).name}
    for file, mode in ((fresh, 0o700), (path, 0o600), (sum_of(path), 0o600)):
        assert stat.S_IMODE(file.stat().st_mode) == mode
    monkeypatch.setattr(compiler, "_compile", None)
    assert build() == path


def test_the_key_is_all_that_the_result_depends_on(fresh, monkeypatch):
    paths = {build(), build(TEXT + "\n"), build(contract=True)}
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
    paths.add(build())
    monkeypatch.setattr(compiler, "_processor", lambda: "another processor")
    paths.add(build())
    tool = compiler.compiler()
    monkeypatch.setattr(compiler, "compiler", lambda: compiler.Compiler(tool.command, "another version"))
    paths.add(build())
    assert len(paths) == 6


@pytest.mark.parametrize("damage", ["cut short", "changed", "no sum", "only the sum"])
def test_a_file_that_is_not_whole_is_compiled_again(fresh, damage):
    path = build()
    good = path.read_bytes()
    if damage == "no sum":
        sum_of(path).unlink()
    elif damage == "only the sum":
        path.unlink()
    else:
        path.write_bytes(good[:100] if damage == "cut short" else bytes(len(good)))
    assert build() == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sum_of(path).read_text()
    assert answer(path) == 42


def refused(match):
    return pytest.warns(
        RuntimeWarning, match=rf"answer could not be compiled and runs slowly.*{match}.*MLX_DEQUANT_CACHE"
    )


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_folder_that_others_can_write_is_refused(fresh, mode):
    fresh.mkdir()
    fresh.chmod(mode)
    with refused("cache is not this user's alone"):
        assert build() is None
    assert not list(fresh.iterdir())


@pytest.mark.parametrize("which", ["program", "sum"])
def test_a_file_that_others_can_write_is_refused(fresh, which):
    path = build()
    file = path if which == "program" else sum_of(path)
    file.chmod(0o660)
    with refused(file.name):
        assert build() is None


def test_a_folder_of_another_user_is_refused(fresh, monkeypatch):
    build()
    monkeypatch.setattr(os, "getuid", lambda: fresh.stat().st_uid + 1)
    with refused("cache is not this user's alone"):
        assert build() is None


@pytest.mark.parametrize("what", ["folder", "program"])
def test_a_symbolic_link_is_refused(fresh, tmp_path, what):
    path = build()
    link = fresh if what == "folder" else path
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    with refused("is not this user's alone"):
        assert build() is None


def test_a_folder_that_cannot_be_made_is_one_warning(fresh):
    fresh.write_text("a file")
    with pytest.warns(RuntimeWarning, match="answer could not be compiled"):
        assert build() is None


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MLX_DEQUANT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mlx-dequant"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "mlx-dequant")


def test_processes_at_once(fresh):
    """Each finds or makes the same whole file, and none leaves a rest behind."""
    script = f"""
import ctypes
from mlx_dequant.backends.host import compiler
path = compiler.compiled("answer", {TEXT!r}, False)
print(path.name, ctypes.CDLL(str(path)).answer())
"""
    command = [sys.executable, "-W", "error", "-c", script]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=100) for process in started]
    path = build()
    assert answers == [(f"{path.name} 42\n", "")] * 4
    assert {file.name for file in fresh.iterdir()} == {path.name, sum_of(path).name}
