"""What is said where a package is missing."""

from __future__ import annotations

import sys

import pytest

import mlx_dequant as mxd
from mlx_dequant import needs
from mlx_dequant.cli import main


def test_commands_without_mlx(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert main(["formats"]) == 2
    assert capsys.readouterr().err.startswith(
        "mlx-dequant: mlx-dequant needs MLX with a backend. On Linux: pip install"
    )


def test_bridges_without_torch(monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    for call in (mxd.bridges.install, mxd.bridges.uninstall, lambda: mxd.bridges.release(object())):
        with pytest.raises(ImportError, match=r"mlx_dequant.bridges needs torch: pip install 'mlx-dequant\[torch\]'"):
            call()
