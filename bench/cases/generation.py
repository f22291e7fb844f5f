"""Tokens a second of a GGUF language model: quantized, and as the same model with dense weights.

The answers are compared first: quantized and dense float32 must choose the same tokens. On a CPU the comparison is with
float32, which MLX hands to its BLAS; a row of the result names that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_dequant as mxd

from ...backends import GPUS
from ...backends.host import threads

QUESTION = [{"role": "user", "content": "Explain to a child why the sky is blue."}]


def rows(file: Path, tokens: int = 64, rounds: int = 3) -> list[dict[str, Any]]:
    """A row for each way to run the model; the best of some rounds in which they take turns."""
    model, tokenizer = mxd.lm.load(file, dtype=mx.float32)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)
    fewer = max(tokens // 4, 2)  # a dense model is slow enough to be timed over fewer
    dense = dense_model(file, mx.float32)
    same = _answer(model, prompt, fewer)[0] == _answer(dense, prompt, fewer)[0]
    status, check = ("timed", "answers as dense float32") if same else ("wrong", "answers otherwise than dense float32")
    runs: dict[tuple[str, str], Callable[[], float]] = {
        ("mlx-dequant", "gguf"): lambda: _answer(model, prompt, tokens)[1],
        ("MLX dense", "float32"): lambda: _answer(dense, prompt, fewer)[1],
    }
    if mxd.current_backend() in GPUS:
        half = dense_model(file, mx.float16)
        runs["MLX dense", "float16"] = lambda: _answer(half, prompt, fewer)[1]
    if find_spec("llama_cpp"):
        runs["llama-cpp-python", "gguf"] = partial(_llama_cpp, file, prompt, tokens)
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds if same else 0):
        for name, run in runs.items():
            best[name] = max(best[name], run())
    return [
        {
            "case": "generation",
            "provider": provider,
            "model": file.name,
            "format": kind,
            "status": status,
            "check": check,
            "decode_tokens_per_second": speed or None,
        }
        for (provider, kind), speed in best.items()
    ]


def dense_model(path: Path, dtype: mx.Dtype) -> Any:
    """mlx-lm's model with every weight dequantized."""
    from ...lm import gguf_config, gguf_tensors
    from ...lm.build import build
    from ...lm.folder import empty_model
    from ...loading import GGUFFile

    file = GGUFFile(path)
    config = gguf_config.config(file)
    model = empty_model(config)
    weights = gguf_tensors.weights(file, config, model)
    dense = {
        name: weight.dequantize(dtype) if isinstance(weight, mxd.QuantizedWeight) else weight.astype(dtype)
        for name, weight in weights.items()
    }
    build(model, dense, dtype)
    return model


def _answer(model: Any, prompt: list[int], count: int) -> tuple[list[int], float]:
    """Greedy tokens, and how many a second come after the first."""
    from mlx_lm.generate import generate_step

    tokens: list[int] = []
    begin = time.perf_counter()
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
        if not tokens:
            begin = time.perf_counter()
        tokens.append(int(token))
    return tokens, (count - 1) / (time.perf_counter() - begin)


def _llama_cpp(path: Path, prompt: list[int], count: int) -> float:
    """Tokens a second of llama-cpp-python with the same file."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    model = Llama(str(path), n_ctx=len(prompt) + count, n_threads=threads.count(), verbose=False)
    stream = model.generate(prompt, temp=0.0)
    next(stream)
    begin = time.perf_counter()
    for _ in range(count - 1):
        next(stream)
    return (count - 1) / (time.perf_counter() - begin)
