"""The house is in order: what lies where, and what must never be written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_dequant as mxd

ROOT = Path(__file__).parent.parent
SHADERS = sorted(path for path in (ROOT / "metal").rglob("*") if path.suffix in (".metal", ".h"))


def test_the_top_level():
    folders = {"mlx_dequant", "metal", "bridges", "tests", "bench", ".github"}
    files = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci/run"}
    assert {name for name in folders if not (ROOT / name).is_dir()} == set()
    assert {name for name in files if not (ROOT / name).is_file()} == set()
    assert [path.name for path in ROOT.glob("*.py")] == ["mlx_dequant_vllm.py"]


@pytest.mark.parametrize("name", ["metal", "bridges", "bench"])
def test_the_package_links_to_the_top_level(name):
    link = ROOT / "mlx_dequant" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("name", ["metal", "bridges", "bench"])
def test_nothing_imports_the_top_level_names(name):
    pattern = re.compile(rf"^\s*(import|from) {name}\b", re.MULTILINE)
    files = [path for folder in ("mlx_dequant", "metal", "bridges", "tests", "bench") for path in python(folder)]
    assert [path for path in files if pattern.search(path.read_text())] == []


def python(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_shaders_are_ascii():
    assert len(SHADERS) > len(mxd.formats())
    assert [path for path in SHADERS if not path.read_bytes().isascii()] == []


def test_only_platforms_know_the_compilers():
    """A format and a kernel are text that any platform takes."""
    shared = [path for path in SHADERS if not {"platform", "cuda"} & {*path.relative_to(ROOT / "metal").parts}]
    assert len(shared) > len(SHADERS) / 2
    words = re.compile("(?i)cuda|hopper|wgmma|half2|prefetch|__METAL|__NVCC|_MSC_VER|#if")
    assert {path.name: words.findall(path.read_text()) for path in shared if words.search(path.read_text())} == {}


def test_what_only_cuda_has_stands_behind_the_wall():
    """Metal's platform files know nothing of CUDA's instructions."""
    files = [path for path in SHADERS if path.name.startswith("metal") and path.parent.name == "platform"]
    assert len(files) == 2
    assert [path for path in files if re.search("(?i)cuda|hopper|wgmma|half2|mbarrier", path.read_text())] == []


def test_kernels_name_no_format():
    names = re.compile("|".join(rf"\b{name}\b" for name in mxd.formats()))
    kernels = [path for path in SHADERS if path.parent.name == "kernels"]
    assert kernels
    assert {path.name: names.findall(path.read_text()) for path in kernels if names.search(path.read_text())} == {}


@pytest.mark.parametrize("form", mxd.formats().values(), ids=list(mxd.formats()))
def test_a_format_has_its_shader(form):
    text = (ROOT / "metal" / form.source).read_text()
    assert re.search(rf"\b{form.name if form.family == 'gguf' else form.family}\b", text)


def imported(path: Path) -> set[str]:
    """Packages that a file imports anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    relative = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in plain | relative}


def test_only_the_bridges_import_torch():
    files = [path for folder in ("mlx_dequant", "metal") for path in python(folder)]
    assert len(files) > 20
    assert [path for path in files if imported(path) & {"torch", "vllm"}] == []


def run(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_without_an_mlx_backend_the_first_use_names_the_extras():
    done = run("import sys; sys.modules['mlx.core'] = None; import mlx_dequant; mlx_dequant.GGUFWeight")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mlx_dequant.needs.MissingError: mlx-dequant needs MLX with a backend")
    for extra in ("mlx-dequant[cpu]", "[cuda12]", "[cuda13]"):
        assert extra in last


def test_the_import_needs_no_torch():
    done = run("import sys; sys.modules['torch'] = None; import mlx_dequant, mlx_dequant.cli, mlx_dequant.bridges")
    assert (done.returncode, done.stderr) == (0, "")
