"""What `mlx-dequant verify` does: dequantizes a GGUF file's tensors here and with gguf-py, and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

from .. import backends
from ..backends.host.library import library
from ..loading.gguf_file import GGUFFile
from ..registry import Format
from ..weights import GGUFWeight
from .compare import Comparison, same_bits
from .timing import Call, interleaved

PART = 1 << 24  # weights dequantized at once: 64 MB of float32, whatever the tensor's size

FLOATS = np.ndarray[Any, np.dtype[np.float32]]
TIMES = np.ndarray[Any, np.dtype[np.float64]]
BLOCKS = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass
class Row:
    """What was found about the tensors of one format.

    Attributes:
        wrong: weights whose bits differ from gguf-py's.
        flushed: subnormal weights that Metal gave as zeros, the documented exception.
        differing: names of the tensors with wrong weights.
        compiled: False where the host could not compile its loop, so that the reference ran and
            was compared with itself.
        seconds: to dequantize them, to do so with gguf-py, and for NumPy to copy the float32
            result into fresh arrays.
    """

    format: Format
    tensors: int = 0
    weights: int = 0
    nbytes: int = 0
    wrong: int = 0
    flushed: int = 0
    differing: list[str] = field(default_factory=list[str])
    compiled: bool = True
    seconds: TIMES = field(default_factory=lambda: np.zeros(3))

    @property
    def in_place(self) -> bool:
        """Whether there is nothing to dequantize: the bytes are float32."""
        return self.format.name == "f32"


def compare(file: GGUFFile, rounds: int, step: Callable[[str, int], object]) -> list[Row]:
    """A row for each format in the file, in the file's order.

    Args:
        rounds: how often each part of a tensor is timed; the best counts.
        step: called with a tensor's name and the number of its weights just compared.
    """
    rows: dict[str, Row] = {}
    for name, info in file.tensors.items():
        if info.format is None:
            continue
        if info.format.name not in rows:
            rows[info.format.name] = Row(info.format)
        row = rows[info.format.name]
        row.tensors += 1
        row.nbytes += info.nbytes
        wrong_before = row.wrong
        for blocks in _parts(file.blocks(name), info.format):
            if row.weights == 0:
                _compile(row, GGUFWeight(blocks, info.format.name))
            step(name, _compare_part(row, blocks, rounds))
        if row.wrong > wrong_before:
            row.differing.append(name)
    return list(rows.values())


def _compile(row: Row, weight: GGUFWeight) -> None:
    mx.eval(weight.dequantize(mx.float32))
    if backends.current_backend() == "host" and not row.in_place:
        row.compiled = library(weight.matrix, "dequantize", mx.float32) is not None


def _parts(blocks: BLOCKS, form: Format) -> Iterator[BLOCKS]:
    """The rows of a tensor, so many at a time that a part has about `PART` weights."""
    if blocks.size == 0:
        return
    blocks = blocks.reshape(-1, blocks.shape[-1])
    rows = max(PART // (blocks.shape[1] // form.bytes * form.weights), 1)
    for first in range(0, len(blocks), rows):
        yield blocks[first : first + rows]


def _compare_part(row: Row, blocks: BLOCKS, rounds: int) -> int:
    weight = GGUFWeight(blocks, row.format.name)
    results: dict[str, Any] = {}

    def ours(_: int) -> None:
        results["found"] = weight.dequantize(mx.float32)
        mx.eval(results["found"])

    def gguf_py(_: int) -> None:
        results["expected"] = _expected(weight, blocks)

    def copy(_: int) -> None:
        np.copyto(np.empty(weight.shape, np.float32), source)

    source = np.ones(weight.shape, np.float32)
    calls = {"ours": Call(ours), "gguf-py": Call(gguf_py), "copy": Call(copy)}
    best, worst = np.full(len(calls), np.inf), Comparison(0)
    flushes = backends.current_backend() == "metal"
    for turn in range(rounds):
        taken = interleaved(calls, rounds=1, warm=False, seed=turn)
        best = np.minimum(best, [taken[name].seconds[0] for name in calls])
        found = same_bits(np.asarray(results["found"]), results["expected"], flushes)
        worst = max(worst, found, key=lambda one: (one.wrong, one.flushed))
    row.wrong += worst.wrong
    row.flushed += worst.flushed
    row.weights += weight.size
    row.seconds += best
    return weight.size


def _expected(weight: GGUFWeight, blocks: BLOCKS) -> FLOATS:
    """gguf-py's result; for the types it cannot read, the reference's."""
    try:
        kind = gguf.GGMLQuantizationType(weight.format.ggml_type)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(gguf.quants.dequantize(blocks, kind), np.float32)
    except (ValueError, NotImplementedError):
        with backends.use_backend("reference"):
            return np.asarray(weight.dequantize(mx.float32))
