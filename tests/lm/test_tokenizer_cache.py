"""What is kept of tokenizers: private, whole, bounded; an entry that is anything else is none."""

import os
import stat

import pytest

from mlx_dequant.lm import tokenizer_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


def test_an_entry_comes_back(folder):
    assert tokenizer_cache.read("merges", "a") is None
    tokenizer_cache.write("merges", "a", b"content")
    assert tokenizer_cache.read("merges", "a") == b"content"
    assert [tokenizer_cache.read("merges", "b"), tokenizer_cache.read("others", "a")] == [None, None]
    assert [path.name for path in folder.iterdir()] == ["merges-a"]
    for path, mode in ((folder.parent, 0o700), (folder, 0o700), (folder / "merges-a", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def change(path):
    path.write_bytes(b"C" + path.read_bytes()[1:])


def empty(path):
    path.write_bytes(b"")


def open_to_others(path):
    path.chmod(0o622)


def link(path):
    path.rename(path.with_name("another"))
    path.symlink_to("another")


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def open_the_folder(path):
    path.parent.chmod(0o777)


def open_the_cache(path):
    path.parent.parent.chmod(0o777)


def grow(path):
    with path.open("ab") as file:
        file.truncate(tokenizer_cache.LARGEST + 1)


@pytest.mark.parametrize(
    "harm", [cut, change, empty, open_to_others, link, pipe, open_the_folder, open_the_cache, grow]
)
def test_what_is_harmed_is_none(folder, harm):
    tokenizer_cache.write("merges", "a", b"content")
    harm(folder / "merges-a")
    assert tokenizer_cache.read("merges", "a") is None


@pytest.mark.parametrize("harm", [cut, open_to_others, link, pipe])
def test_it_is_written_anew(folder, harm):
    tokenizer_cache.write("merges", "a", b"content")
    harm(folder / "merges-a")
    tokenizer_cache.write("merges", "a", b"content")
    assert tokenizer_cache.read("merges", "a") == b"content"


@pytest.mark.parametrize("harm", [open_the_folder, open_the_cache])
def test_nothing_is_written_where_others_can_write(folder, harm):
    tokenizer_cache.write("merges", "a", b"content")
    harm(folder / "merges-a")
    tokenizer_cache.write("merges", "b", b"content")
    assert [path.name for path in folder.iterdir()] == ["merges-a"]


def test_no_entry_is_half_written(folder, monkeypatch):
    tokenizer_cache.write("merges", "a", b"content")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    tokenizer_cache.write("merges", "a", b"another")
    tokenizer_cache.write("merges", "b", b"content")
    assert [path.name for path in folder.iterdir()] == ["merges-a"]
    assert tokenizer_cache.read("merges", "a") == b"content"


def test_the_least_used_go_first(folder, monkeypatch):
    monkeypatch.setattr(tokenizer_cache, "TOGETHER", 3 * (100 + 32))
    for at, key in enumerate("abc"):
        tokenizer_cache.write("merges", key, bytes(100))
        os.utime(folder / f"merges-{key}", (at, at))
    tokenizer_cache.read("merges", "a")
    tokenizer_cache.write("merges", "d", bytes(100))
    assert {path.name for path in folder.iterdir()} == {"merges-a", "merges-c", "merges-d"}


def test_what_is_too_large_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(tokenizer_cache, "LARGEST", 100)
    tokenizer_cache.write("merges", "a", bytes(100))
    assert tokenizer_cache.read("merges", "a") is None
