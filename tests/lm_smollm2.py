"""SmolLM2-135M-Instruct: the demo's model file, its weights, and transformers' model of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
import torch
from lm_models import halves_apart

from mlx_dequant.cli.fetch_demo_model import MODEL, SIZE
from mlx_dequant.disk_cache import cache_folder
from mlx_dequant.loading import GGUFFile

HEADS, KEY_HEADS, LAYERS = 9, 3, 30
PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea in winter.",
    "Explain to a child why the sky is blue.",
)
TEXT = (
    "The lighthouse stood at the end of a long road, and nobody in the village could say who had built it. On clear "
    "evenings its light swept over the harbour, where the fishing boats lay side by side. The keeper, an old woman "
    "with a fondness for mathematics, counted the ships that passed and wrote their numbers in a small black book."
)


def model_file() -> Path:
    """The file in the user's cache."""
    path = cache_folder() / "models" / MODEL
    if not path.is_file() or path.stat().st_size != SIZE:
        pytest.skip(f"{MODEL} is not in the cache: run mlx-dequant fetch-demo-model")
    return path


def unpacked(path: Path) -> dict[str, np.ndarray]:
    """The weights by transformers' names, float32, by gguf-py."""
    file = GGUFFile(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    result: dict[str, np.ndarray] = {}
    for parameter in parameters():
        tensor = names.get_name(parameter, (".weight",))
        info = file.tensors[tensor]
        values = gguf.quants.dequantize(file.blocks(tensor), gguf.GGMLQuantizationType(info.format.ggml_type))
        values = values.reshape(info.shape)
        if "q_proj" in parameter or "k_proj" in parameter:
            values = halves_apart(values, HEADS if "q_proj" in parameter else KEY_HEADS)
        result[parameter] = values
    return result


def parameters() -> list[str]:
    inside = [f"self_attn.{letter}_proj" for letter in "qkvo"]
    inside += [f"mlp.{way}_proj" for way in ("gate", "up", "down")]
    inside += ["input_layernorm", "post_attention_layernorm"]
    blocks = [f"model.layers.{layer}.{name}.weight" for layer in range(LAYERS) for name in inside]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight"]


def reference(weights: dict[str, np.ndarray]) -> Any:
    """transformers' model of these weights, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    state = {name: torch.tensor(values) for name, values in weights.items()}
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    return model


def rewrite(source: Path, target: Path, encode: Callable[[str, np.ndarray], tuple[np.ndarray, str]]) -> None:
    """The file with its matrices encoded anew: `encode` gives a matrix's bytes and their type."""
    file = GGUFFile(source)
    writer = gguf.GGUFWriter(target, "llama")
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in file.metadata.items():
        if type(value) in add and not key.startswith("general.architecture"):
            add[type(value)](key, value)
        elif type(value) not in add:
            writer.add_array(key, list(value) if isinstance(value, list) else value.tolist())
    for name, info in file.tensors.items():
        kind = gguf.GGMLQuantizationType(info.format.ggml_type)
        data = file.blocks(name)
        if len(info.shape) == 2:
            data, title = encode(name, gguf.quants.dequantize(data, kind))
            kind = gguf.GGMLQuantizationType[title]
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, data.view(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def chat(tokenizer: Any, prompt: str) -> list[int]:
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)


def greedy(model: Any, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
    """The likeliest next token, `count` times, and the logits [count, vocabulary] it was chosen from."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    given, tokens, logits = prompt, [], []
    for _ in range(count):
        logits.append(np.array(model(mx.array([given]), cache=cache)[0, -1].astype(mx.float32)))
        given = [int(logits[-1].argmax())]
        tokens += given
    return tokens, np.stack(logits)


def assert_same_answers(model: Any, tokenizer: Any, expected: Any, prompts=PROMPTS, count: int = 64) -> float:
    """Greedy tokens are those that transformers would choose too; gives the largest difference of logits.

    One pass of transformers over an answer is enough: each of its tokens must be the likeliest
    after those before it.
    """
    largest = 0.0
    for prompt in prompts:
        ids = chat(tokenizer, prompt)
        tokens, logits = greedy(model, ids, count)
        with torch.no_grad():
            theirs = expected(torch.tensor([ids + tokens[:-1]])).logits[0, len(ids) - 1 :].numpy()
        assert theirs.argmax(-1).tolist() == tokens, prompt
        largest = max(largest, float(np.abs(theirs - logits).max()))
    return largest


def perplexities(model: Any, tokenizer: Any, expected: Any) -> tuple[float, float]:
    """Of TEXT, by the model and by transformers."""
    ids = tokenizer.encode(TEXT)
    with torch.no_grad():
        theirs = expected(torch.tensor([ids])).logits[0].numpy()
    return perplexity(model, tokenizer), _perplexity(theirs, ids)


def perplexity(model: Any, tokenizer: Any) -> float:
    """Of TEXT, by the model alone."""
    ids = tokenizer.encode(TEXT)
    return _perplexity(np.array(model(mx.array([ids])).astype(mx.float32))[0], ids)


def _perplexity(logits: np.ndarray, ids: list[int]) -> float:
    exact = logits[:-1].astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    chosen = exact[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(exact).sum(-1))
    return float(np.exp(-chosen.mean()))
