"""What a folder leads to: links, devices, pipes, names of other places; and files that change while they are open."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from folders import KEY, assert_decodes, module, write_folder
from gguf_bytes import gguf_bytes
from support import group_settings

import mlx_dequant as mxd

SET = "gptq_w4_g64_sym_v2_4l"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", module(KEY, SET), group_settings(SET))


def listed(folder, name):
    """An index that says that each tensor is in the file `name`."""
    names = mxd.load(folder).weights
    tensors = [f"{each}.{part}" for each in names for part in ("qweight", "scales")]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "a/../../outside.safetensors",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "outside.safetensors\0",
        "out\nside.safetensors",
        "..",
        "",
        ".safetensors/",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_leads_nowhere_else(folder, name):
    listed(folder, name)
    with pytest.raises(mxd.FormatError, match=r"expected a name\.safetensors"):
        mxd.load(folder)


def test_links_are_followed_as_the_hub_makes_them(folder):
    """The Hub's cache has links to files beside the folder: who wrote the folder's links may read the disk already."""
    (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to("../blob")
    assert_decodes(mxd.load(folder), KEY)
    (folder.parent / "blob").unlink()
    with pytest.raises((FileNotFoundError, mxd.FormatError)):
        mxd.load(folder)


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def directory(path):
    path.mkdir()


def empty(path):
    path.touch()


@pytest.mark.parametrize("make", [pipe, device, loop, directory, empty], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.safetensors.index.json", "model.gguf"])
def test_what_is_no_file_is_refused_at_once(folder, name, make):
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises((mxd.FormatError, OSError)) as error:
        mxd.load(folder / name if name == "model.gguf" else folder)
    assert make in (loop, directory) or isinstance(error.value, mxd.FormatError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_not_text(folder, name):
    for content in (b"\xff\xfe", b"\0", b'{"a": "\xed\xa0\x80"}', b"[" * 100_000, b"[" * 10, b"1e999", b"NaN", b'"a"'):
        (folder / name).write_bytes(content)
        with pytest.raises(mxd.FormatError, match=name):
            mxd.load(folder)


def test_a_json_of_too_many_values(folder):
    (folder / "config.json").write_bytes(b'{"a":[' + b",".join([b"[]"] * 500_000) + b"]}")
    with pytest.raises(mxd.FormatError, match=r"config.json: found JSON of 1\d+ values, expected at most 850000"):
        mxd.load(folder)


CUT = """
import os, sys
import mlx_dequant as mxd
path, kind = sys.argv[1:]
checkpoint = mxd.load(path)
file = path if path.endswith(".gguf") else path + "/model.safetensors"
size = os.path.getsize(file)
os.truncate(file, 4096 if kind == "cut" else 0)
for name in [*checkpoint.weights, *checkpoint.metadata]:
    try:
        checkpoint.weights[name] if name in checkpoint.weights else checkpoint.metadata[name]
    except mxd.FormatError as error:
        assert f"expected the {size} that it was opened with" in str(error), error
    else:
        assert not path.endswith(".gguf") or kind == "replaced", name
print("works on")
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-c", CUT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["cut", "emptied"])
@pytest.mark.parametrize("what", ["gguf", "folder"])
def test_a_file_that_is_cut_while_open_is_an_error(folder, tmp_path, what, kind):
    """Reading a page that the file no longer has would end the process by SIGBUS."""
    path = folder
    if what == "gguf":
        path = tmp_path / "model.gguf"
        tensors = {name: (8, (64, 256), os.urandom(64 * 8 * 34)) for name in "abc"}
        path.write_bytes(gguf_bytes(tensors, {"text": "a", "texts": ["b"] * 1000}))
    done = run(path, kind)
    assert (done.returncode, done.stdout) == (0, "works on\n"), done.stderr


def test_a_file_that_is_replaced_while_open_is_still_the_old_one(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes({"w": (8, (1, 32), bytes(range(34)))}))
    checkpoint = mxd.load(path)
    path.unlink()
    path.write_bytes(b"something else")
    assert checkpoint.weights["w"].arrays["blocks"].tolist() == [list(range(34))]
