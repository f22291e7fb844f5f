"""A model that answers and reads prompts: mlx-lm's, torch's and llama.cpp's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..backends.host import threads

PROMPT = 64  # tokens in front of those that are timed


def prompt_ids(count: int, vocabulary: int) -> list[int]:
    """So many tokens, the same for every model."""
    return np.random.default_rng(count).integers(0, vocabulary, count).tolist()


def in_turns(answer: Iterator[int], count: int) -> Iterator[list[int]]:
    """So many tokens of an answer without end at a time."""
    while True:
        yield list(islice(answer, count))


class Runner(Protocol):
    """A model to be timed."""

    def tokens(self, count: int) -> Iterator[list[int]]:
        """A greedy answer to a prompt of `PROMPT` tokens, without end, so many tokens at a time."""
        ...

    def prompt(self, count: int) -> None:
        """Reads so many tokens, and computes the first one of the answer."""
        ...

    def wait(self) -> None:
        """Returns when everything is computed."""
        ...

    def is_finite(self) -> bool:
        """Whether the scores of a token are numbers: a model of infinities is not timed."""
        ...


class MLXModel:
    """mlx-lm's model, run by mlx-lm's `generate_step`.

    Attributes:
        model: any of mlx-lm's.
        vocabulary: tokens that it knows.
        dtype: type of its activations.
    """

    def __init__(self, model: Any, vocabulary: int, dtype: mx.Dtype):
        self.model, self.vocabulary, self.dtype = model, vocabulary, dtype

    def tokens(self, count: int) -> Iterator[list[int]]:
        from mlx_lm.generate import generate_step

        answer = generate_step(self._ids(PROMPT), self.model, max_tokens=-1)
        return in_turns((int(token) for token, _ in answer), count)

    def prompt(self, count: int) -> None:
        from mlx_lm.generate import generate_step

        for _ in generate_step(self._ids(count), self.model, max_tokens=0):
            pass

    def wait(self) -> None:
        from mlx_lm.generate import generation_stream

        mx.synchronize(generation_stream)  # a token is computed ahead

    def is_finite(self) -> bool:
        from mlx_lm.generate import generate_step

        return all(
            bool(mx.isfinite(scores).all()) for _, scores in generate_step(self._ids(PROMPT), self.model, max_tokens=1)
        )

    def _ids(self, count: int) -> mx.array:
        return mx.array(prompt_ids(count, self.vocabulary))


class LlamaModel:
    """llama.cpp's model of a GGUF file, run by llama-cpp-python, with as many threads as this package."""

    def __init__(self, path: Path, vocabulary: int, context: int = 4096):
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

        count = threads.count()
        self.vocabulary = vocabulary
        self.model = Llama(str(path), n_ctx=context, n_threads=count, n_threads_batch=count, verbose=False)

    def tokens(self, count: int) -> Iterator[list[int]]:
        return in_turns(self.model.generate(self._ids(PROMPT), temp=0.0, reset=True), count)

    def prompt(self, count: int) -> None:
        self.model.reset()
        self.model.eval(self._ids(count))

    def wait(self) -> None:
        """Its calls return when everything is computed."""

    def is_finite(self) -> bool:
        from llama_cpp import llama_get_logits_ith  # pyright: ignore[reportMissingImports]

        self.prompt(PROMPT)
        # Without logits_all its `scores` are never written.
        scores = np.ctypeslib.as_array(llama_get_logits_ith(self.model.ctx, -1), (self.vocabulary,))
        return bool(np.isfinite(scores).all() and scores.any())

    def _ids(self, count: int) -> list[int]:
        return prompt_ids(count, self.vocabulary)
