"""`make soak`: 16 threads dequantize, multiply and look up weights, make and drop layers, load and drop models.

    python -m tests.tools.soak --seconds 600

Every result is compared, bit by bit: dequantized and looked up with the reference's, products with those of the same
backend in one thread. At the end no thread hangs, MLX has as much memory in use as at the start, and the process as
many files open; its own memory may grow by `ROOM` after the first half.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.nn import PackedEmbedding, PackedLinear
from tests.gguf_bytes import gguf_bytes

THREADS = 16
PATIENCE = 120  # seconds that the last steps may take
ROOM = 48 << 20  # what malloc may keep more of, in bytes
OUTPUTS, INPUTS, SEEDS = 96, 256, 3
FORMATS = ("q4_k", "q6_k", "q8_0", "awq4", "gptq3", "gptq4", "ct4")
ROWS = (1, 3, 40)  # of x: a vector, a few, a matrix
TYPES = (mx.float32, mx.float16)
IDS = (5, 0, 77, 5, -1)


def equal(found: Any, expected: np.ndarray) -> None:
    """Raises unless all bits are the same."""
    found = np.asarray(found)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), f"{found.shape} {found.dtype}"
    wrong = np.count_nonzero(found.view(f"u{found.itemsize}") != expected.view(f"u{found.itemsize}"))
    assert wrong == 0, f"{wrong} of {found.size} are wrong"


class Case:
    """A weight that all threads share, how to make it again, and what it gives."""

    def __init__(self, name: str, seed: int):
        self.make = lambda: sample_weights.layer(name, OUTPUTS, INPUTS, seed, 64, "shuffled" if name == "gptq4" else "")
        self.weight = self.make()
        self.x = [mx.array(np.random.default_rng(seed).normal(size=(rows, INPUTS)).astype(np.float32)) for rows in ROWS]
        mx.eval(self.x)
        self.products = {}
        for backend in mxd.available_backends():
            with mxd.use_backend(backend):
                self.products[backend] = [np.array(self.weight.linear(x)) for x in self.x]
        with mxd.use_backend("reference"):
            self.dense = {kind: np.array(self.weight.dequantize(kind)) for kind in TYPES}
            self.rows = np.array(self.weight.take(mx.array(IDS), mx.float32))


class Work:
    """What the threads do: a method of one step is named in `STEPS`."""

    STEPS = ("dequantize", "multiply", "look_up", "layers", "torch", "checkpoint", "model")
    SHARES = (20, 20, 20, 10, 20, 5, 1)

    def __init__(self, folder: Path):
        self.cases = [Case(name, seed) for name in FORMATS for seed in range(SEEDS)]
        self.has_torch = find_spec("torch") is not None
        self.file = folder / "tensors.gguf"
        self.blocks = self.cases[0].weight.arrays["blocks"]
        self.file.write_bytes(gguf_bytes({"w": (12, (OUTPUTS, INPUTS), np.asarray(self.blocks).tobytes())}))
        self.language = folder / "model.gguf"
        if all(find_spec(name) for name in ("mlx_lm", "torch", "transformers")):
            from tests.lm_models import transformers_model, write_gguf

            write_gguf(self.language, "llama", transformers_model("llama"))
            self.logits = {}
            for backend in mxd.available_backends():
                with mxd.use_backend(backend):
                    self.logits[backend] = self._logits()

    def step(self, random: Random) -> str:
        """One step on a backend, a weight and an operation drawn; returns its name. Raises if a bit is wrong."""
        name = random.choices(self.STEPS, self.SHARES)[0]
        backend, case = random.choice(mxd.available_backends()), random.choice(self.cases)
        weight = case.weight if random.random() < 0.7 else case.make()
        with mxd.use_backend(backend):
            getattr(self, name)(random, backend, case, weight)
        return name

    def dequantize(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        kind = random.choice(TYPES)
        equal(weight.dequantize(kind), case.dense[kind])

    def multiply(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        at = random.randrange(len(ROWS))
        equal(weight.linear(case.x[at]), case.products[backend][at])

    def look_up(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        equal(weight.take(mx.array(IDS), mx.float32), case.rows)

    def layers(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        equal(PackedLinear(weight)(case.x[0]), case.products[backend][0])
        equal(PackedEmbedding(weight, mx.float32)(mx.array(IDS)), case.rows)

    def torch(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        if not self.has_torch:
            return
        import torch

        from mlx_dequant.bridges.nn import packed_linear
        from mlx_dequant.bridges.torch import to_mlx, to_torch

        with torch.no_grad():
            found = packed_linear(weight, "cpu")(torch.from_numpy(np.array(case.x[0])))
        equal(found, case.products[backend][0])
        equal(to_mlx(to_torch(weight.dequantize(mx.float32), "cpu")), case.dense[mx.float32])

    def checkpoint(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        equal(mxd.load(self.file).weights["w"].dequantize(mx.float32), self.cases[0].dense[mx.float32])

    def model(self, random: Random, backend: str, case: Case, weight: mxd.QuantizedWeight) -> None:
        if self.language.exists():
            equal(self._logits(), self.logits[backend])

    def _logits(self) -> np.ndarray:
        model, _ = mxd.lm.load(str(self.language))
        return np.array(model(mx.array([[1, 2, 3]])).astype(mx.float32))


def open_files() -> int:
    folder = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
    return sum(1 for _ in folder.iterdir())


def memory() -> int:
    """Bytes that the process has in memory; on macOS the most that it ever had."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held() -> int:
    """Bytes of arrays that MLX has in use."""
    gc.collect()
    mx.clear_cache()
    return mx.get_active_memory()


def run(step: Callable[[Random], str], seconds: float, seed: int) -> int:
    """Lets `THREADS` threads do steps for so long, and prints what was found: 0 if all is well."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    ended = Event()

    def work(number: int) -> None:
        random = Random(seed * THREADS + number)
        try:
            while not ended.is_set():
                name = step(random)
                counts[name] += 1
        except Exception:
            problems.append(traceback.format_exc())
            ended.set()

    threads = [Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    files, arrays, sizes = open_files(), held(), [memory()]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    while time.monotonic() - begin < seconds and not ended.wait(min(1, seconds / 20)):
        sizes.append(memory())
    ended.set()
    for thread in threads:
        thread.join(max(0, begin + seconds + PATIENCE - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        faulthandler.dump_traceback(all_threads=True)
        problems.append(f"{sum(thread.is_alive() for thread in threads)} threads hang")
    threads.clear()
    half = len(sizes) // 2
    early, late = max(sizes[: half + 1]), max(sizes[half:])
    arrays_after, files_after = held(), open_files()
    if not problems:
        if late - early > ROOM:
            problems.append(f"memory grew from {early} to {late} bytes in the second half")
        if arrays_after > arrays:
            problems.append(f"MLX keeps {arrays_after - arrays} bytes more than before")
        if files_after > files:
            problems.append(f"{files_after - files} files more are open than before")
    print(*problems, *(f"{name}: {count:,} steps" for name, count in sorted(counts.items())), sep="\n")
    print(
        f"soak: {counts.total():,} steps of {THREADS} threads in {time.monotonic() - begin:.0f} s, "
        f"{len(problems)} problems; memory {early / 2**20:.0f} then {late / 2**20:.0f} MB, "
        f"MLX's arrays {arrays / 2**20:.2f} then {arrays_after / 2**20:.2f} MB, open files {files} then {files_after}",
        flush=True,
    )
    return int(bool(problems))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long (600)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        random = Random(0)
        for backend in mxd.available_backends():  # imports and compiles what takes long
            with mxd.use_backend(backend):
                for case in work.cases[::SEEDS]:
                    work.dequantize(random, backend, case, case.weight)
                    work.torch(random, backend, case, case.weight)
        return run(work.step, options.seconds, options.seed)


if __name__ == "__main__":
    sys.exit(main())
