"""The wheel and the editable install, each in a clean environment outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("pyproject.toml", "README.md", "LICENSE", "mlx_dequant_vllm.py", "mlx_dequant", "metal", "bridges", "bench")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what the package is made of, links kept as links."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


class Environment:
    """A clean virtual environment that finds what the package depends on where the tests find it."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        self.folder = folder
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # Searched after the environment's own packages; its .pth files, those of editable installs, are not read.
        paths = sysconfig.get_paths()
        lines = "\n".join(dict.fromkeys([paths["purelib"], paths["platlib"]]))
        (folder / "lib" / version / "site-packages" / "dependencies.pth").write_text(lines)

    def install(self, *arguments: str | Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", "--no-build-isolation", *arguments], check=True)

    def run(self, code: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [self.python, "-c", code]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


DEQUANTIZE = """
import sys
import mlx.core as mx, numpy as np
import mlx_dequant as mxd, mlx_dequant.bridges, mlx_dequant.metal
blocks = np.tile(np.concatenate([np.array([0.5], np.float16).view(np.uint8), np.arange(32, dtype=np.uint8)]), (4, 3))
weight = mxd.GGUFWeight(blocks, "Q8_0")
expected = np.tile(np.arange(32) / 2, (4, 3))
for name in mxd.available_backends():
    with mxd.use_backend(name):
        assert np.array_equal(np.array(weight.dequantize(mx.float32)), expected), name
assert "torch" not in sys.modules
print(mxd.__file__, mlx_dequant.metal.__file__, mlx_dequant.bridges.__file__, sep="\\n")
"""


def test_the_wheel_stands_alone(checkout, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", checkout]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("metal", "bridges", "bench"):
        kinds = (".metal", ".h", ".py", ".html", ".css", ".js")
        ours = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.suffix in kinds}
        assert ours
        assert {f"mlx_dequant/{path.as_posix()}" for path in ours} <= names
    assert {f"mlx_dequant/{path.relative_to(ROOT / 'mlx_dequant').as_posix()}" for path in sources()} <= names
    assert [name for name in names if "/results/" in name or name.endswith("NOTES.md")] == []
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"mlx_dequant", "mlx_dequant_vllm.py"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)

    shutil.rmtree(checkout)
    environment = Environment(tmp_path / "environment")
    environment.install(wheel)
    for file in environment.run(DEQUANTIZE).splitlines():
        assert Path(file).is_relative_to(environment.folder)
    command = environment.folder / "bin" / "mlx-dequant"
    assert subprocess.run([command, "formats"], cwd=tmp_path, capture_output=True).returncode == 0


def sources() -> list[Path]:
    """The package's own files; what lies behind its links is not among them."""
    files = (ROOT / "mlx_dequant").rglob("*")
    return [path for path in files if path.suffix in (".py", ".cpp", ".h") or path.name == "py.typed"]


def test_an_editable_install_sees_edits_of_shaders(checkout, tmp_path):
    environment = Environment(tmp_path / "environment")
    environment.install("--editable", checkout)
    header = """
from mlx_dequant import formats, kernels
from mlx_dequant.kernel_source import kernel_source
source = kernel_source("metal", formats()["q8_0"], kernels.DEQUANTIZE, "float32", "float32")
print(source.name, "e_1" in source.header)
"""
    name, edited = environment.run(header).split()
    assert edited == "False"
    with (checkout / "metal" / "formats" / "gguf" / "q8_0.metal").open("a") as shader:
        shader.write("extern int e_1;\n")
    new_name, edited = environment.run(header).split()
    assert edited == "True"
    assert new_name != name
