"""Commands over real processes, which talk over MLX's ring: the tokens of one process, and what each reads."""

from __future__ import annotations

import json
import signal
import sys

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_experts import as_folder, mixture
from lm_folders import write_folder
from lm_models import transformers_model, write_gguf
from lm_ranks import by_hand, launch, launcher
from lm_server import ask, served
from lm_smollm2 import PROMPTS, model_file

from mlx_dequant.cli import main

pytestmark = pytest.mark.full
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}
DIES = """
import os, signal, sys
from mlx_dequant.cli import main
from mlx_dequant.lm import ranks

measured = ranks.measured

def dies(group):
    if group.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return measured(group)

ranks.measured = dies
sys.exit(main(sys.argv[1:]))
"""


def generated(path, prompt, tmp_path, size):
    """What `mlx-dequant generate --json` writes; with a size, over that many processes."""
    file = tmp_path / f"{size}.json"
    arguments = ["generate", str(path), "-p", prompt, "--max-tokens", "24", "--json", str(file)]
    if size:
        ended = launch(size, "-m", "mlx_dequant", *arguments)
        assert file.exists(), ended.stderr
        assert ended.stdout.count("rank ") == size, ended.stdout  # the first alone prints
        print(ended.stdout)
    else:
        assert main(arguments) == 0
    return json.loads(file.read_text())


def test_smollm2_over_two(tmp_path):
    """Nine heads on three key-value heads: six and two, three and one."""
    alone = generated(model_file(), PROMPTS[0], tmp_path, 0)
    shared = generated(model_file(), PROMPTS[0], tmp_path, 2)
    assert (shared["text"], shared["tokens"]) == (alone["text"], alone["tokens"])
    first, second = (rank["bytes_read"] for rank in shared["ranks"])
    assert second < first < 0.7 * alone["ranks"][0]["bytes_read"]  # the embedding is whole in both


def test_a_qwen3_with_act_order_over_one_two_and_four(tmp_path, tokenizer):
    model = transformers_model("qwen3", **WIDE)
    exact = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    path = tmp_path / "model"
    write_folder(path, "gptq act-order", json.loads(model.config.to_json_string()), exact)
    tokenizer.save_pretrained(path)
    each = {size: generated(path, "hello", tmp_path, size) for size in (1, 2, 4)}
    assert each[1]["text"] == each[2]["text"] == each[4]["text"]
    read = {size: max(rank["bytes_read"] for rank in found["ranks"]) for size, found in each.items()}
    memory = {size: max(rank["memory"] for rank in found["ranks"]) for size, found in each.items()}
    assert read[4] < read[2] < read[1]
    assert memory[4] < memory[2] < memory[1]


def test_a_mixture_by_mlx_lms_own_command(tmp_path, tokenizer):
    model = mixture("qwen3_moe", hidden_size=128)
    path = tmp_path / "model"
    config = json.loads(model.config.to_json_string())
    write_folder(path, "gptq", config, as_folder("qwen3_moe", model.state_dict()))
    tokenizer.save_pretrained(path)
    command = ["-m", "mlx_dequant.lm", "generate", "--model", str(path), "--prompt", "hello", "--max-tokens", "24"]
    alone, shared = launch(1, *command), launch(2, *command)
    text = alone.stdout.split("==========")[1]
    assert text.strip()
    assert shared.stdout.split("==========")[1] == text
    assert shared.stdout.count("==========") == 2


def test_the_server_over_two(tmp_path):
    with served(model_file(), tmp_path / "log", launcher=lambda *command: launcher(2, *command)) as address:
        answer = ask(address, PROMPTS[0])
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_a_process_that_dies_ends_the_others(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    (tmp_path / "dies.py").write_text(DIES)
    command = [str(tmp_path / "dies.py"), "generate", str(tmp_path / "model.gguf"), "-p", "hello"]
    first, second = by_hand(2, tmp_path, *command)
    errors = first.communicate(timeout=600)[1]
    assert second.wait(60) == -signal.SIGKILL
    assert first.returncode == 2
    assert "mlx-dequant: rank 0 of 2: ends because another process did: [ring]" in errors
    ended = launch(2, *command)
    assert "Node with rank 1 exited with code -9" in ended.stdout + ended.stderr


def test_a_model_that_cannot_be_cut_so_far(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    ended = launch(4, "-m", "mlx_dequant", "generate", str(tmp_path / "model.gguf"), "-p", "hello")
    assert "of 4: model.layers.0.mlp: found 96 inner rows, cut by multiples of 32" in ended.stderr
    assert sys.executable not in ended.stdout
