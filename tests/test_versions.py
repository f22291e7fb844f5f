"""The lowest versions that pyproject.toml claims, in an environment of their own. All other tests run on the newest.

torch's lowest release is left out on Linux, where pip has it with gigabytes of CUDA only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mlx", "numpy", "gguf", "rich", "mlx-lm", *(() if sys.platform == "linux" else ("torch",)))
# Quick ones, of files, weights, look-ups and settings.
TESTS = (
    *("tests/loading/test_gguf.py", "tests/loading/test_safetensors.py", "tests/formats/test_gguf.py"),
    *("tests/weights/test_weights.py", "tests/ops/test_take.py", "tests/lm/test_settings.py"),
)


def lowest() -> dict[str, str]:
    """By package, the lowest version that the package's metadata claims."""
    found = {}
    for text in requires("mlx-dequant") or ():
        match = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", text)
        if match and match[1] in PACKAGES:
            assert found.setdefault(match[1], match[2]) == match[2], f"{match[1]}: two lowest versions"
    return found


def test_every_package_has_a_lowest_version():
    assert lowest().keys() == set(PACKAGES)


@pytest.mark.full
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="numpy 1.26 has no wheel for Python 3.13")
def test_the_lowest_versions(tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in lowest().items()]
    if sys.platform == "linux":
        wanted.append(f"mlx[cpu]=={lowest()['mlx']}")
    pip = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run([*pip, *wanted, "pytest", "hypothesis", "safetensors"], capture_output=True, text=True)
    if "No matching distribution" in done.stderr and "Could not find a version" in done.stderr and not _reached(python):
        pytest.skip("pip reaches no packages here")
    assert done.returncode == 0, done.stderr
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not full", "-k", "not emulator", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d{2,} passed", done.stdout)


def _reached(python: Path) -> bool:
    return subprocess.run([python, "-m", "pip", "index", "versions", "numpy"], capture_output=True).returncode == 0
