"""mlx-lm's commands on SmolLM2: the server's ways of answering, chat, training, caches, measurements."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_server import ask, post, served, streamed  # noqa: E402
from lm_smollm2 import PROMPTS, TEXT, chat, greedy, model_file  # noqa: E402
from lm_training import train  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

from mlx_dequant.lm.commands import run  # noqa: E402

pytestmark = pytest.mark.full
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def smollm2():
    return mxd.lm.load(model_file())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(model_file(), tmp_path_factory.mktemp("server") / "log") as address:
        yield address


def test_a_client_of_openai(server):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    messages = [{"role": "user", "content": PROMPTS[0]}]
    settings = {"model": "default_model", "messages": messages, "max_tokens": 12, "temperature": 0}
    assert client.chat.completions.create(**settings).choices[0].message.content == PARIS
    pieces = [piece.choices[0].delta.content or "" for piece in client.chat.completions.create(**settings, stream=True)]
    assert "".join(pieces) == PARIS


def test_an_answer_and_a_streamed_one(server):
    assert ask(server, PROMPTS[0])["choices"][0]["message"]["content"] == PARIS
    pieces = [piece["choices"][0]["delta"].get("content") or "" for piece in streamed(server, PROMPTS[0])]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == PARIS


def test_two_requests_at_once(server):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: ask(server, text), PROMPTS[:2]))
    texts = [answer["choices"][0]["message"]["content"] for answer in found]
    alone = [ask(server, text)["choices"][0]["message"]["content"] for text in PROMPTS[:2]]
    assert texts == alone


def test_a_prompt_that_begins_as_another_is_cached(server):
    body = {"prompt": TEXT, "max_tokens": 4, "temperature": 0.0}
    first = json.loads(post(server, "completions", body))
    # mlx-lm 0.32.2's server ends on a prompt that is cached whole, so this one has a word more.
    longer = TEXT + first["choices"][0]["text"] + " Then"
    again = json.loads(post(server, "completions", body | {"prompt": longer}))
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0.9 * first["usage"]["prompt_tokens"]


def test_chat_in_a_terminal(tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "mlx_dequant", "chat", str(model_file()), "--max-tokens", "16"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown, asked, limit = "", 0, time.monotonic() + 240
    try:
        while time.monotonic() < limit and process.poll() is None:
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    shown += os.read(leader, 4096).decode("utf-8", "replace")
                except OSError:  # the other end is closed
                    break
            elif asked == 0 and len(shown) > 20:
                os.write(leader, (PROMPTS[0] + "\n").encode())
                asked = 1
            elif asked == 1 and "Paris." in shown:
                os.write(leader, b"q\n")
                asked = 2
        assert process.wait(30) == 0, shown
    finally:
        process.kill()
        os.close(leader)
    assert "The capital of France is Paris." in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def test_adapters_train_load_and_fuse(tmp_path):
    folder = tmp_path / "data"
    losses = train(model_file(), folder, "--iters", "20", "--learning-rate", "1e-4")
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    adapters = ["--model", str(model_file()), "--adapter-path", str(folder / "adapters")]
    run("fuse", [*adapters, "--save-path", str(tmp_path / "fused")])
    mxd.lm.install()
    try:
        adapted, tokenizer = mlx_lm.load(str(model_file()), adapter_path=str(folder / "adapters"))
        fused, _ = mlx_lm.load(str(tmp_path / "fused"))
    finally:
        mxd.lm.uninstall()
    ids = chat(tokenizer, PROMPTS[0])
    before, _ = greedy(mxd.lm.load(model_file())[0], ids, 8)
    expected, logits = greedy(adapted, ids, 8)
    found, close = greedy(fused, ids, 8)
    assert found == expected
    assert np.abs(close - logits).max() < 1e-3  # of logits up to about 30
    assert not np.allclose(greedy(mxd.lm.load(model_file())[0], ids, 1)[1], logits[0], atol=1e-2), before


def test_a_draft_model(smollm2):
    model, tokenizer = smollm2
    prompt = chat(tokenizer, PROMPTS[1])
    expected = mlx_lm.generate(model, tokenizer, prompt, max_tokens=24)
    responses = list(mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=24, draft_model=model))
    assert "".join(response.text for response in responses) == expected
    assert sum(response.from_draft for response in responses) > 8


def test_a_quantized_cache(smollm2):
    model, tokenizer = smollm2
    prompt = chat(tokenizer, PROMPTS[0])
    cache = make_prompt_cache(model)
    settings = {"kv_bits": 8, "kv_group_size": 64, "quantized_kv_start": 0, "prompt_cache": cache}
    text = mlx_lm.generate(model, tokenizer, prompt, max_tokens=12, **settings)
    assert text == PARIS


def test_a_batch(smollm2):
    model, tokenizer = smollm2
    prompts = [chat(tokenizer, prompt) for prompt in PROMPTS]
    found = mlx_lm.batch_generate(model, tokenizer, prompts, max_tokens=10).texts
    assert found == [mlx_lm.generate(model, tokenizer, prompt, max_tokens=10) for prompt in prompts]


def test_perplexity(smollm2, capsys, monkeypatch):
    from mlx_lm import perplexity

    ids = smollm2[1].encode(TEXT)
    data = mx.array([ids[:64]])
    monkeypatch.setattr(perplexity, "load_data", lambda *args, **settings: data)
    run("perplexity", ["--model", str(model_file()), "--sequence-length", "64", "--num-samples", "1"])
    expected, _ = perplexity.eval_ppl(smollm2[0], data)
    found = re.search(r"Perplexity:\s*([\d.]+)", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) == pytest.approx(expected, abs=1e-2)
    assert 1 < expected < 100


def test_benchmark(capsys):
    run("benchmark", ["--model", str(model_file()), "-p", "16", "-g", "4", "-n", "1"])
    averages = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"Averages: prompt_tps=[1-9][\d.]*, generation_tps=[1-9][\d.]*, peak_memory=[\d.]+$", averages)


def test_generate(capsys):
    run("generate", ["--model", str(model_file()), "--prompt", PROMPTS[0], "--max-tokens", "12"])
    assert PARIS in capsys.readouterr().out
