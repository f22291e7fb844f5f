"""Tokens a second of a language model: packed, and as the same model in mlx-lm with dense weights.

    python -m bench.generation MODEL.gguf

First the answers are compared: packed and dense float32 must choose the same tokens.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from rich import print

import mlx_dequant as mxd
from mlx_dequant.lm import gguf_config, gguf_tensors
from mlx_dequant.lm.folder import empty_model
from mlx_dequant.loading import GGUFFile

from .timing import environment

QUESTION = [{"role": "user", "content": "Explain to a child why the sky is blue."}]


def dense(path: Path, dtype: mx.Dtype) -> Any:
    """mlx-lm's model with every weight unpacked."""
    file = GGUFFile(path)
    config = gguf_config.config(file)
    model = empty_model(config)
    weights = gguf_tensors.weights(file, config, model)
    unpacked = [
        (name, (weight.dequantize(mx.float32) if isinstance(weight, mxd.QuantizedWeight) else weight).astype(dtype))
        for name, weight in weights.items()
    ]
    model.load_weights(unpacked)
    gguf_tensors.scale_rope(file, config, model)
    mx.eval([array for _, array in tree_flatten(model.parameters())])
    return model


def answer(model: Any, prompt: list[int], count: int) -> tuple[list[int], float]:
    """Greedy tokens, and how many a second come after the first."""
    tokens: list[int] = []
    begin = time.perf_counter()
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
        if not tokens:
            begin = time.perf_counter()
        tokens.append(int(token))
    return tokens, (count - 1) / (time.perf_counter() - begin)


def llama_cpp(path: Path, prompt: list[int], count: int, threads: int) -> float:
    """Tokens a second of llama-cpp-python with the same file."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    model = Llama(str(path), n_ctx=len(prompt) + count, n_threads=threads, verbose=False)
    stream = model.generate(prompt, temp=0.0)
    next(stream)
    begin = time.perf_counter()
    for _ in range(count - 1):
        next(stream)
    return (count - 1) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (3)")
    options = parser.parse_args()
    packed, tokenizer = mxd.lm.load(options.model, dtype=mx.float32)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)
    few = max(options.tokens // 4, 2)
    plain = dense(options.model, mx.float32)
    if answer(packed, prompt, few)[0] != answer(plain, prompt, few)[0]:
        raise SystemExit("WRONG: packed and dense float32 answer differently")

    about = environment()
    print(about)
    half = dense(options.model, mx.float16)
    # A dense one is slow enough to be timed over fewer tokens; each takes turns with the others.
    models = {"mlx-dequant": (packed, options.tokens), "dense float32": (plain, few), "dense float16": (half, few)}
    best = dict.fromkeys(models, 0.0)
    for _ in range(options.rounds):
        for name, (model, count) in models.items():
            best[name] = max(best[name], answer(model, prompt, count)[1])
    if find_spec("llama_cpp"):
        best["llama-cpp-python"] = llama_cpp(options.model, prompt, options.tokens, int(about["threads"]))
    for name, speed in best.items():
        print(f"{name:>17} {speed:7.2f} tokens/s, mlx-dequant is {best['mlx-dequant'] / speed:.1f} times as fast")


if __name__ == "__main__":
    main()
