"""Models of a GGUF file, each in a process of its own: what one loads, preloads or keeps in memory changes no other.

A process is asked by lines of JSON and answers each by one, {"result": ...} or {"error": "..."}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .. import dtypes
from .cases import FUSED
from .runners import LlamaModel, MLXModel, Runner


class Process:
    """A runner in a process.

    Args:
        provider: a key of `MAKERS`.
        path: the GGUF file.
        dtype: the name of the type of activations and dense weights.
        preload: a library to load first, in place of others that have its functions.
        precision: of the host backend's products.

    Raises:
        RuntimeError: the process could not make its model; the message is its own.
    """

    def __init__(self, provider: str, path: Path, dtype: str, preload: str = "", precision: str = "float32"):
        before = os.environ.get("LD_PRELOAD", "")
        loaded = {"LD_PRELOAD": f"{preload}:{before}" if before else preload} if preload else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlx_dequant.bench.processes", provider, str(path), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | loaded | {"MLX_DEQUANT_PRECISION": precision},
        )
        weakref.finalize(self, _end, self._process)
        self.blas = str(self._ask("blas"))

    def tokens(self, count: int) -> Iterator[list[int]]:
        self._ask("tokens", count)
        while True:
            yield self._ask("more tokens")

    def prompt(self, count: int) -> None:
        self._ask("prompt", count)

    def wait(self) -> None:
        self._ask("wait")

    def is_finite(self) -> bool:
        return bool(self._ask("is_finite"))

    def _ask(self, what: str, *arguments: int) -> Any:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked and answers
        try:
            print(json.dumps([what, *arguments]), file=asked, flush=True)
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"its process ended with status {self._process.wait()}")
        found = json.loads(answer)
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["result"]


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.close()  # it ends by itself
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _quantized(path: Path, dtype: str, fuse: bool = False) -> Runner:
    from ..lm import load

    kind = dtypes.of(dtype)
    model = load(path, kind, fuse=fuse)[0]
    return MLXModel(model, _vocabulary(path), kind)


def _dense(path: Path, dtype: str) -> Runner:
    from .cases import generation

    kind = dtypes.of(dtype)
    return MLXModel(generation.dense_model(path, kind), _vocabulary(path), kind)


def _llama(path: Path, dtype: str) -> Runner:
    return LlamaModel(path, _vocabulary(path))


def _vocabulary(path: Path) -> int:
    from ..loading import GGUFFile

    return GGUFFile(path).tensors["token_embd.weight"].shape[0]


MAKERS: dict[str, Callable[[Path, str], Runner]] = {
    "mlx-dequant": _quantized,
    f"mlx-dequant{FUSED}": partial(_quantized, fuse=True),
    "mlx": _dense,
    "llama-cpp-python": _llama,
}


def _answer(runner: Runner, state: dict[str, Iterator[list[int]]], what: str, *arguments: int) -> Any:
    if what == "tokens":
        state["tokens"] = runner.tokens(*arguments)
        return None
    if what == "more tokens":
        return next(state["tokens"])
    if what == "blas":
        from ..diagnostics.environment import blas

        return blas()
    return getattr(runner, what)(*arguments)


def main(provider: str, path: str, dtype: str) -> None:
    """Makes a model and answers until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one who asks
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    runner: Runner | None = None
    state: dict[str, Iterator[list[int]]] = {}
    for line in sys.stdin:
        try:
            runner = runner or MAKERS[provider](Path(path), dtype)
            said = {"result": _answer(runner, state, *json.loads(line))}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), file=answers, flush=True)
    os._exit(0)  # a large model's objects take Python seconds to give back


if __name__ == "__main__":
    main(*sys.argv[1:])
