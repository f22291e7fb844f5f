"""The command line's frame: commands, errors, JSON; and the commands `formats` and `info`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from gguf_bytes import gguf_bytes

import mlx_dequant as mxd
from mlx_dequant.backends.host import compiler
from mlx_dequant.cli import COMMANDS, main
from mlx_dequant.diagnostics import output


@pytest.fixture
def model(tmp_path):
    """A file with two Q8_0 tensors and one of float32."""
    path = tmp_path / "model.gguf"
    tensors = {
        "a": (8, (2, 64), bytes(2 * 2 * 34)),
        "b": (0, (3,), bytes(12)),
        "c": (8, (32,), bytes(34)),
    }
    metadata = {"general.name": "A \x1b[31mmodel\n of [bold]ours", "tokens": ["x", "y", "z"]}
    path.write_bytes(gguf_bytes(tensors, metadata))
    return path


def bad_files(folder, good: bytes):
    """Files that no command can read, by what is wrong with them."""
    contents = {
        "empty": b"",
        "magic only": b"GGUF",
        "text": b"This is no model.\n" * 100,
        "cut in the header": good[:40],
        "cut in the data": good[:-40],
        "a lying count": good[:8] + b"\xff" * 7 + good[15:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return [folder / name for name in (*contents, "folder", "missing", "missing-00001-of-00002.gguf")]


@pytest.mark.parametrize("command", ["verify", "info"])
def test_a_bad_file_is_one_line_and_exit_2(command, model, tmp_path, capsys):
    for path in bad_files(tmp_path, model.read_bytes()):
        result = tmp_path / "result.json"
        assert main([command, str(path), "--json", str(result)]) == 2, path
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("mlx-dequant: ") and err.count("\n") == 1, err
        assert path.name in err
        assert not result.exists()


def test_what_a_file_says_cannot_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(gguf_bytes({"\x1b[2J\nname": (0, (99,), bytes(4))}))
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_info_shows_types_without_a_reader(tmp_path, capsys):
    path = tmp_path / "fork.gguf"
    path.write_bytes(gguf_bytes({"a": (0, (8,), bytes(32)), "b": (139, (256,), bytes(144))}))
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr()
    assert "139 tensors cannot be read: found type 139, expected one of F32" in out.out + out.err


def test_info_counts_tensors_by_type(model, capsys):
    assert main(["info", str(model), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["types"] == [
        {"type": "Q8_0", "tensors": 2, "weights": 160, "bytes": 170},
        {"type": "F32", "tensors": 1, "weights": 3, "bytes": 12},
    ]
    assert (result["version"], result["weights"], result["bytes"]) == (3, 163, 182)
    assert result["tensors"][0] == {"name": "a", "type": "Q8_0", "shape": [2, 64], "bytes": 136}
    assert result["metadata"] == {"general.name": "A \x1b[31mmodel\n of [bold]ours", "tokens": {"length": 3}}
    assert "\x1b" not in err and "A [31mmodel of [bold]ours" in err
    assert "3 values" in err and "8.5" in err


def test_formats_are_the_registry(capsys):
    assert main(["formats", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["name"] for row in rows] == list(mxd.formats())
    assert [row["title"] for row in rows] == [form.title for form in mxd.formats().values()]
    for form in mxd.formats().values():
        assert f" {form.title} " in err


def test_json_replaces_a_file_in_one_step(tmp_path, monkeypatch):
    result = tmp_path / "result.json"
    result.write_text("old")
    monkeypatch.setattr(output.Path, "replace", lambda *_: pytest.fail("replaced"))
    with pytest.raises(pytest.fail.Exception, match="replaced"):
        main(["formats", "--json", str(result)])
    assert result.read_text() == "old"
    monkeypatch.undo()
    assert main(["formats", "--json", str(result)]) == 0
    assert len(json.loads(result.read_text())) == len(mxd.formats())
    assert list(tmp_path.iterdir()) == [result]


def test_json_to_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert main(["formats", "--json", str(pipe)]) == 0
        rows = json.loads(reader.communicate()[0])
    assert len(rows) == len(mxd.formats())
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("file", "message"),
    [("no/result.json", "there is no such folder"), (".", "found a folder, expected a file")],
)
def test_json_that_cannot_be_written_is_found_out_before_the_work(file, message, model, tmp_path, capsys):
    with pytest.raises(SystemExit) as status:
        main(["verify", str(model), "--json", str(tmp_path / file)])
    assert status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MLX_DEQUANT_BACKEND", "none", "backend: found 'none', expected one of metal, cuda, host, reference"),
        ("MLX_DEQUANT_THREADS", "many", "MLX_DEQUANT_THREADS: found 'many', expected a positive integer"),
    ],
)
def test_a_wrong_setting_is_exit_2(variable, value, message, model):
    command = [sys.executable, "-m", "mlx_dequant", "verify", str(model)]
    backend = {"MLX_DEQUANT_BACKEND": "host"} if compiler.compiler() else {}
    done = subprocess.run(command, env=os.environ | backend | {variable: value}, capture_output=True, text=True)
    if variable == "MLX_DEQUANT_THREADS" and not backend:
        pytest.skip("no C++ compiler was found")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"mlx-dequant: {message}")


def test_output_that_nobody_reads_is_exit_2(model):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mlx_dequant", "verify", str(model)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, "mlx-dequant: standard output: nobody reads it any more\n")


@pytest.mark.parametrize("arguments", [[], ["unpack"], ["verify"], ["verify", "x", "--rounds", "0"]])
def test_wrong_arguments_are_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    assert "usage: mlx-dequant" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as status:
        main([command.replace("_", "-"), "--help"])
    assert status.value.code == 0
    assert f"mlx-dequant {command.replace('_', '-')}" in capsys.readouterr().out


def test_python_m_runs_it():
    done = subprocess.run([sys.executable, "-m", "mlx_dequant", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"mlx-dequant {mxd.__version__}")


def test_importing_the_command_line_is_light():
    heavy = "{'torch', 'rich', 'transformers', 'mlx_lm'}"
    code = (
        f"import mlx_dequant.cli, sys; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (98_362_432, "98.4 MB"),
        (999_700_000, "1 GB"),
        (2.5e12, "2.5e+03 GB"),
    ],
)
def test_sizes_are_for_people(nbytes, text):
    assert output.size(nbytes) == text
