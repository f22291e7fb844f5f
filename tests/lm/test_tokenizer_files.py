"""Tokenizers that are missing or broken: an error names the file, also where mlx-lm's own load meets it."""

from __future__ import annotations

import json
import os

import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_models import transformers_model, write_gguf
from mlx_lm import utils

from mlx_dequant.lm.load import load_tokenizer
from mlx_dequant.lm.tokenizer_files import of_folder


@pytest.fixture(params=[False, True], ids=["ours", "through mlx-lm"])
def read(request):
    """Reads a folder's tokenizer, by our function or by mlx-lm's with the hook in."""
    if not request.param:
        yield load_tokenizer
        return
    mxd.lm.install()
    yield utils.load_tokenizer
    mxd.lm.uninstall()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_folder_without_a_tokenizer(folder, read):
    expected = r"^model: found no tokenizer.json, tokenizer.model, vocab.json, expected a tokenizer: copy the files"
    with pytest.raises(mxd.FormatError, match=expected):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"^model: tokenizer.json: "),
        ("version https://git-lfs.github.com/spec/v1\n", r"^model: tokenizer.json: found a git-lfs pointer"),
        ("{}", r"^model: tokenizer.json: found what transformers does not read: "),
        ('{"model": {"type": "Runes"}, "added_tokens": 3}', r"^model: tokenizer.json: found what transformers"),
    ],
)
def test_a_tokenizer_that_is_none(text, message, folder, read):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(mxd.FormatError, match=message):
        read(folder)


def test_a_broken_config_of_a_tokenizer(folder, read):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(mxd.FormatError, match=r"^model: tokenizer_config.json: "):
        read(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_pipe_is_not_opened(name, folder, read):
    (folder / "vocab.json").write_text("{}")
    os.mkfifo(folder / name)
    with pytest.raises(mxd.FormatError, match=f"^model: {name}: found a pipe"):
        read(folder)


def test_what_is_no_fault_of_the_tokenizer_stays(folder, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils, "load_tokenizer", full)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(OSError, match="No space left"):
        load_tokenizer(folder)


@pytest.mark.parametrize("number", [288, 2**32 - 1])
def test_a_padding_token_behind_the_vocabulary_is_none(number, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    end = GGUFWriter.add_eos_token_id
    monkeypatch.setattr(GGUFWriter, "add_eos_token_id", lambda self, id: (end(self, id), self.add_pad_token_id(number)))
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    _, tokenizer = mxd.lm.load(tmp_path / "model.gguf")
    assert tokenizer.pad_token is None
    assert tokenizer.decode(tokenizer.encode("the rain")) == "the rain"


@pytest.mark.parametrize("number", [-1, 99999])
def test_a_padding_id_of_a_config_behind_the_vocabulary_changes_nothing(number, folder):
    from mlx_dequant.lm.folder import config

    given = {"model_type": "llama", "vocab_size": 32}
    (folder / "config.json").write_text(json.dumps(given))
    before = config(folder)
    (folder / "config.json").write_text(json.dumps(given | {"pad_token_id": number}))
    assert {**config(folder), "pad_token_id": None} == {**before, "pad_token_id": None}


def test_a_large_vocabulary(folder):
    """As many merges as Gemma 3 has, in the form of today's tokenizers library: pairs."""
    merges = b",".join([b'["a","b"]'] * 600_000)
    (folder / "tokenizer.json").write_bytes(b'{"model":{"merges":[' + merges + b"]}}")
    with of_folder(folder):
        pass
