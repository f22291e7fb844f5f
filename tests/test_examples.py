"""The scripts under examples/ run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def output(script: str, *arguments: object) -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.full
def test_a_gguf_file_on_mlx(tmp_path):
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
    pytest.importorskip("torch", reason="torch is not installed")
    from lm_models import transformers_model, write_gguf

    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    assert "".join(output("mlx_gguf.py", tmp_path / "model.gguf", "the rain?"))


def test_smollm2_on_mlx():
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
    pytest.importorskip("torch", reason="torch is not installed")
    from lm_smollm2 import model_file

    answer = output("mlx_gguf.py", model_file(), "What is the capital of France?")
    assert answer == ["The capital of France is Paris."]


@pytest.mark.parametrize("name", ["gptq", "gptq act-order", "awq", "compressed-tensors"])
def test_a_folder_on_mlx(name, tmp_path):
    from lm_folders import write_folder

    rng = np.random.default_rng(0)
    shapes = {"gate_proj": (192, 128), "up_proj": (192, 128), "down_proj": (128, 192)}
    weights = {
        f"model.layers.0.mlp.{way}.weight": rng.standard_normal(shape).astype(np.float32) / 11
        for way, shape in shapes.items()
    }
    write_folder(tmp_path / "model", name, {"model_type": "llama"}, weights)
    lines = output("mlx_gptq_folder.py", tmp_path / "model")
    assert [line.partition(":")[0] for line in lines[:3]] == list(shapes)
    assert lines[3] == "x (3, 128) gives (3, 128) mlx.core.float32"
    assert lines[4].startswith("gradient (3, 128), largest ")
    assert 0 < float(lines[4].split()[-1]) < 1
