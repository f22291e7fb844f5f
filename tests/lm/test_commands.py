"""mlx-lm's commands on a small packed model: one request to the server, a few steps of LoRA."""

from __future__ import annotations

import sys

import mlx.core as mx
import pytest

import mlx_dequant as mxd
from mlx_dequant.cli import main

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_models import transformers_model, write_gguf  # noqa: E402
from lm_server import ask, served  # noqa: E402
from lm_training import train  # noqa: E402

from mlx_dequant.lm.commands import run  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama"))
    return path


def test_the_server_answers(model, tmp_path):
    with served(model, tmp_path / "log", "--max-tokens", "7") as address:
        answer = ask(address, "the rain")
    loaded, tokenizer = mxd.lm.load(model)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "the rain"}], add_generation_prompt=True)
    expected = mlx_lm.generate(loaded, tokenizer, prompt, max_tokens=12)
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_lora_trains_and_its_adapters_load(model, tmp_path):
    losses = train(model, tmp_path / "data", "--iters", "5", "--learning-rate", "1e-3")
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    mxd.lm.install()
    try:
        adapted, tokenizer = mlx_lm.load(str(model), adapter_path=str(tmp_path / "data/adapters"))
    finally:
        mxd.lm.uninstall()
    ids = mx.array([tokenizer.encode("the rain")])
    assert not mx.allclose(adapted(ids), mxd.lm.load(model)[0](ids), atol=1e-3)


def test_a_command_leaves_everything_as_it_was(model, capsys):
    before = list(sys.argv)
    with pytest.raises(SystemExit):
        run("generate", ["--help"])
    assert "--max-kv-size" in capsys.readouterr().out
    assert sys.argv == before
    assert not mxd.lm.installed()


def test_a_model_that_is_none(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"text")
    assert main(["chat", str(tmp_path / "model.gguf")]) == 2
    assert capsys.readouterr().err.startswith("mlx-dequant: model.gguf: found b'text' at the start")
