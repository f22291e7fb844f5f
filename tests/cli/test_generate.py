"""The command `generate`: text as it comes, tokens a second, JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

import mlx_dequant as mxd
from mlx_dequant.cli import main
from mlx_dequant.cli.generation import reading
from mlx_dequant.diagnostics.output import size
from mlx_dequant.loading.mapped import bytes_read

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_models import transformers_model, write_gguf
from lm_smollm2 import model_file


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama"))
    return str(path)


def test_it_prints_text_and_how_fast(model, capsys):
    assert main(["generate", model, "-p", "the rain", "--max-tokens", "7"]) == 0
    out, err = capsys.readouterr()
    *_, prompt, answer, memory = out.splitlines()
    assert prompt.startswith("prompt: ") and prompt.endswith(" tokens/s")
    assert answer.startswith("answer: 7 tokens, ")
    assert memory.startswith("loaded in ") and "peak memory: " in memory
    assert err == ""


def test_loading_shows_how_much_is_read(tmp_path):
    """Of a mixture too: its experts are read one by one."""
    from lm_experts import as_folder, mixture
    from lm_folders import write_folder

    theirs = mixture("qwen3_moe", hidden_size=128)
    write_folder(
        tmp_path / "model",
        "gptq",
        json.loads(theirs.config.to_json_string()),
        as_folder("qwen3_moe", theirs.state_dict()),
    )
    weights = mxd.load(tmp_path / "model").weights
    out, before = io.StringIO(), bytes_read()
    seen = []
    with reading(Console(file=out, force_terminal=True, width=80)):
        for name in weights:
            weights[name]
            seen.append(bytes_read() - before)
    assert sum(name.count(".experts.") for name in weights) == 72
    assert sorted(set(seen)) == seen  # it rises with each
    assert f"reading the model: {size(seen[-1])}" in out.getvalue()


def test_json_holds_the_text(model, capsys):
    assert main(["generate", model, "--prompt", "the rain", "--max-tokens", "7", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["prompt"] == "the rain"
    assert result["tokens"] == 7
    assert result["finish_reason"] == "length"
    assert min(result[key] for key in ("tps", "prompt_tps", "prompt_tokens", "peak_memory", "load_seconds")) > 0
    assert result["text"].split("\n")[0].strip() in err


def test_temperature_changes_the_text(model, capsys):
    texts = []
    for temperature in ("0", "0", "5"):
        assert main(["generate", model, "-p", "x", "--max-tokens", "24", "--temp", temperature, "--json", "-"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def answer(capsys, model, *arguments, prompt="the rain"):
    assert main(["generate", model, "-p", prompt, "-m", "12", "--json", "-", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_sampling_options_and_seeds(model, capsys):
    greedy = answer(capsys, model)["text"]
    for options in (("--top-k", "1"), ("--top-p", "0.000001"), ("--min-p", "1")):
        assert answer(capsys, model, "--temp", "2", *options)["text"] == greedy
    first, second, third = (answer(capsys, model, "--temp", "2", "--seed", seed)["text"] for seed in "112")
    assert first == second != third


def test_what_the_prompt_is(model, capsys):
    plain = answer(capsys, model)["prompt_tokens"]
    assert answer(capsys, model, "--ignore-chat-template")["prompt_tokens"] < plain
    assert answer(capsys, model, "--system-prompt", "in the rain")["prompt_tokens"] > plain
    assert answer(capsys, model, "--prefill-response", "in the rain")["prompt_tokens"] > plain


def test_caches_types_and_drafts(model, capsys):
    greedy = answer(capsys, model)["text"]
    assert answer(capsys, model, "--draft-model", model, "--num-draft-tokens", "2")["text"] == greedy
    assert answer(capsys, model, "--max-kv-size", "64", "--prefill-step-size", "3")["text"] == greedy
    assert answer(capsys, model, "--dtype", "float16")["tokens"] == 12
    assert main(["generate", model, "-p", "x", "--max-kv-size", "64", "--kv-bits", "4"]) == 2
    assert "--kv-bits: found 4 and --max-kv-size, expected one of them" in capsys.readouterr().err


def test_smollm2_answers(capsys):
    assert main(["generate", str(model_file()), "-p", "What is the capital of France?"]) == 0
    assert capsys.readouterr().out.startswith("The capital of France is Paris.\n\nprompt: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temp", "-1"], "--temp: found '-1', expected a number from 0 on"),
        (["--temp", "hot"], "--temp: found 'hot', expected a number from 0 on"),
        (["--top-p", "2"], "--top-p: found '2', expected a number from 0 to 1"),
        (["--top-k", "-1"], "--top-k: found '-1', expected an integer from 0 to 2^63 - 1"),
        (["--seed", str(1 << 63)], "--seed: found '9223372036854775808', expected an integer from 0 to 2^63 - 1"),
        (["--max-tokens", "0"], "found '0', expected a positive integer"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["generate", "model.gguf", "-p", "x", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-p", "hi", "--kv-bits", "8", "--kv-group-size", "128", "--quantized-kv-start", "0"],
            "mlx-dequant: mlx-lm: [qu",
        ),
        (["-p", "", "--ignore-chat-template"], "mlx-dequant: mlx-lm: Either input_embeddings or prompt"),
        (["-p", "hi", "--extra-eos-token", "nosuch"], "mlx-dequant: --extra-eos-token: 'nosuch' is not a token"),
    ],
)
def test_arguments_that_do_not_suit_the_model(arguments, message, model, capsys):
    assert main(["generate", str(model), "-m", "3", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


def test_a_file_that_is_no_model(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"text")
    assert main(["generate", str(tmp_path / "model.gguf"), "-p", "x"]) == 2
    assert capsys.readouterr().err.startswith("mlx-dequant: model.gguf: found b'text' at the start")


def test_without_mlx_lm_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    for name in [name for name in sys.modules if name.startswith("mlx_dequant.lm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mlx_dequant.lm", raising=False)
    assert main(["generate", "model.gguf", "-p", "x"]) == 2
    assert capsys.readouterr().err == "mlx-dequant: mlx_dequant.lm needs mlx-lm: pip install 'mlx-dequant[lm]'\n"
