"""Ctrl-C and SIGTERM in the middle of a command: it ends at once, and leaves no file half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf_bytes import gguf_bytes

PROMPT = 20  # seconds, on a busy machine
SLOW_COMPILER = '#!/bin/sh\nif [ "$1" = --version ]; then echo 1.0; exit 0; fi\ntouch "$0.runs"\nexec sleep 300\n'
SLOW_PIP = """
import pathlib, sys, time
folder = pathlib.Path(next(each[7:] for each in sys.argv if each.startswith("--dest=")))
(folder / "half.whl").write_bytes(bytes(1000))
pathlib.Path(__file__).with_name("runs").touch()
time.sleep(300)
"""
STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
stops = pytest.mark.parametrize(("stop", "status"), STOPS, ids=["SIGINT", "SIGTERM"])


class Command:
    """A command that runs in a folder of its own, with its own cache."""

    def __init__(self, folder: Path, *arguments: str, **variables: str):
        self.folder = folder
        environment = os.environ | {"MLX_DEQUANT_CACHE": str(folder / "cache")} | variables
        self.said = (folder / "said").open("w+")
        command = [sys.executable, "-m", "mlx_dequant", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=self.said, stderr=self.said)

    def text(self) -> str:
        return (self.folder / "said").read_text()

    def wait_for(self, condition) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.02)

    def stopped(self, stop: signal.Signals) -> int:
        """The exit status."""
        self.process.send_signal(stop)
        try:
            status = self.process.wait(PROMPT)
        finally:
            self.process.kill()
            self.said.close()
        assert "Traceback" not in self.text(), self.text()
        return status


def left(folder: Path) -> list[str]:
    """Files and folders that are neither ours nor a complete program of the cache."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in ("said", "runs"))
    return [name for name in found if Path(name).suffix not in (".gguf", ".so", ".sha256", ".py", ".sh")]


@pytest.mark.parametrize(
    ("stop", "status"), [STOPS[1], pytest.param(*STOPS[0], marks=pytest.mark.full)], ids=["SIGTERM", "SIGINT"]
)
def test_verify_while_it_compiles(tmp_path, stop, status):
    compiler = tmp_path / "slow.sh"
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    (tmp_path / "model.gguf").write_bytes(gguf_bytes({"w": (8, (1, 32), bytes(34))}))
    command = Command(tmp_path, "verify", "model.gguf", CXX=str(compiler), MLX_DEQUANT_BACKEND="host")
    command.wait_for(Path(f"{compiler}.runs").exists)
    Path(f"{compiler}.runs").unlink()
    assert command.stopped(stop) == status
    assert left(tmp_path) == ["cache"]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.full
@stops
def test_verify_while_it_compares(tmp_path, stop, status):
    (tmp_path / "model.gguf").write_bytes(gguf_bytes({"w": (8, (64, 4096), bytes(64 * 128 * 34))}))
    command = Command(tmp_path, "verify", "--rounds", "1000000", "model.gguf", MLX_DEQUANT_LOG="info")
    command.wait_for(lambda: "backend: " in command.text())
    time.sleep(1)
    assert command.stopped(stop) == status
    assert left(tmp_path) == ["cache"]


@pytest.mark.full
@stops
def test_fetch(tmp_path, stop, status):
    package = tmp_path / "path" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SLOW_PIP)
    path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    command = Command(tmp_path, "fetch-demo-model", PYTHONPATH=path)
    command.wait_for((package / "runs").exists)
    assert command.stopped(stop) == status
    assert left(tmp_path / "cache") == ["models"]


@pytest.mark.full
@stops
def test_bench(tmp_path, stop, status):
    command = Command(
        tmp_path, "bench", "--quick", "--providers", "mlx-dequant", "--json", "result.json", "--html", "result.html"
    )
    command.wait_for(lambda: "threads" in command.text())
    time.sleep(2)
    assert command.stopped(stop) == status
    found = left(tmp_path)
    assert set(found) <= {"cache", "result.json"}, found
    if "result.json" in found:  # what had been measured
        assert json.loads((tmp_path / "result.json").read_text())["rows"]


@pytest.mark.full
@stops
def test_generate(tmp_path, stop, status):
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
    pytest.importorskip("torch", reason="torch is not installed")
    from lm_models import transformers_model, write_gguf

    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama", max_position_embeddings=1 << 20))
    command = Command(tmp_path, "generate", "model.gguf", "-p", "x", "--max-tokens", "1000000", MLX_DEQUANT_LOG="info")
    command.wait_for(lambda: "backend: " in command.text())
    time.sleep(1)
    assert command.stopped(stop) == status
    assert "prompt:" not in command.text()
    assert left(tmp_path) == ["cache"]
