"""Unpacks the tensors of a GGUF file on the backend in force, and with gguf-py, and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

from .. import backends
from ..backends.host.library import library
from ..loading.gguf_file import GGUFFile
from ..registry import Format
from ..weights import GGUFWeight

PART = 1 << 24  # weights unpacked at once: 64 MB of float32, whatever the tensor's size

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
        compiled: False where the host could not compile its program, so that the reference ran and
            was compared with itself.
        seconds: to unpack them, to unpack them with gguf-py, and for NumPy to copy the float32
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
        """Whether there is nothing to unpack: the bytes are float32."""
        return self.format.name == "f32"


def compare(file: GGUFFile, rounds: int, step: Callable[[str, int], object]) -> list[Row]:
    """A row for each format in the file, in the file's order.

    Args:
        rounds: how often each part of a tensor is timed; the best counts.
        step: called with a tensor's name and the number of its weights just compared.
    """
    rows: dict[str, Row] = {}
    for name, info in file.tensors.items():
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
        row.compiled = library(weight, "dequantize", mx.float32) is not None


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
    times: list[TIMES] = []
    counts: list[tuple[int, int]] = []
    for _ in range(rounds):
        at = [perf_counter()]
        found = weight.dequantize(mx.float32)
        mx.eval(found)
        at.append(perf_counter())
        expected = _expected(weight, blocks)
        at.append(perf_counter())
        np.copyto(np.empty_like(expected), expected)
        at.append(perf_counter())
        times.append(np.diff(at))
        counts.append(differences(np.asarray(found), expected, flushes=backends.current_backend() == "metal"))
    wrong, flushed = max(counts)
    row.wrong += wrong
    row.flushed += flushed
    row.weights += weight.size
    row.seconds += np.min(times, axis=0)
    return weight.size


def _expected(weight: GGUFWeight, blocks: BLOCKS) -> FLOATS:
    """gguf-py's result; for the types it cannot unpack, the reference's."""
    try:
        kind = gguf.GGMLQuantizationType(weight.format.ggml_type)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(gguf.quants.dequantize(blocks, kind), np.float32)
    except (ValueError, NotImplementedError):
        with backends.use_backend("reference"):
            return np.asarray(weight.dequantize(mx.float32))


def differences(found: FLOATS, expected: FLOATS, flushes: bool = False) -> tuple[int, int]:
    """How many weights differ in any bit, and how many are zeros in place of subnormals.

    Any NaN equals any other. Without `flushes` a zero in place of a subnormal is a difference.
    """
    wrong = found.view(np.uint32) != expected.view(np.uint32)
    if not wrong.any():
        return 0, 0
    wrong &= ~(np.isnan(found) & np.isnan(expected))
    subnormal = (expected != 0) & (np.abs(expected) < np.finfo(np.float32).tiny)
    flushed = wrong & (found == 0) & subnormal & flushes
    return int(np.count_nonzero(wrong & ~flushed)), int(np.count_nonzero(flushed))
