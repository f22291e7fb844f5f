"""The logger `mlx_dequant`: quiet by default; MLX_DEQUANT_LOG makes it print what is worth saying."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_dequant import log
from mlx_dequant.backends.host import compiler
from mlx_dequant.diagnostics.environment import SETTINGS

ROOT = Path(__file__).parent.parent
DEQUANTIZE = """
import warnings
warnings.simplefilter("ignore")
import numpy as np, mlx_dequant as mxd
np.asarray(mxd.GGUFWeight(np.zeros((2, 34), np.uint8), "Q8_0").dequantize())
"""


def said(tmp_path, **variables: str) -> str:
    """What a new process writes to standard error."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= {"MLX_DEQUANT_CACHE": str(tmp_path / "cache")} | variables
    done = subprocess.run([sys.executable, "-c", DEQUANTIZE], env=environment, capture_output=True, text=True)
    return done.stderr


@pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler was found")
def test_what_is_said(tmp_path):
    assert said(tmp_path, MLX_DEQUANT_BACKEND="host") == ""
    (tmp_path / "cache").rename(tmp_path / "old")
    first = said(tmp_path, MLX_DEQUANT_LOG="info", MLX_DEQUANT_BACKEND="host")
    assert "mlx_dequant INFO: compiler: " in first
    assert "mlx_dequant INFO: backend: host, from MLX_DEQUANT_BACKEND\n" in first
    assert "mlx_dequant INFO: dequantize q8_0: compiled in " in first
    assert "from the cache" not in first
    second = said(tmp_path, MLX_DEQUANT_LOG="debug")
    assert "mlx_dequant INFO: backend: " in second and "host" in second
    if "backend: host" in second:
        assert "mlx_dequant DEBUG: dequantize q8_0: from the cache, " in second and "compiled" not in second


def test_a_fallback_is_said(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    broken.chmod(0o755)
    found = said(tmp_path, MLX_DEQUANT_LOG="warning", MLX_DEQUANT_BACKEND="host", CXX=str(broken))
    assert found.startswith("mlx_dequant WARNING: dequantize q8_0 could not be compiled and runs slowly instead: ")
    assert len(found.splitlines()) == 1


def test_another_level_is_refused():
    with pytest.raises(ValueError, match="MLX_DEQUANT_LOG: found 'loud', expected one of debug, info, warning"):
        log._set_up("loud")


def test_every_setting_is_documented():
    table = (ROOT / "docs" / "index.md").read_text().partition("## Environment variables")[2]
    assert "MLX_DEQUANT_LOG" in SETTINGS
    assert [name for name in SETTINGS if f"| `{name}` |" not in table] == []
