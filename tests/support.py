"""What the tests share: the fixtures, arrays as bits, and rounding in integers."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.diagnostics import compare

FIXTURES = Path(__file__).parent / "fixtures"
GGUF_TYPES = sorted(path.stem for path in (FIXTURES / "gguf").glob("*.npz"))
GROUP_SETS = sorted(path.name for path in (FIXTURES / "groups").iterdir())
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


@cache
def gguf_fixture(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Part ("real", "adv", "adv_full") to its blocks [rows, row bytes] and float32 weights [rows, columns]."""
    with np.load(FIXTURES / "gguf" / f"{name}.npz") as file:
        parts = {"real": "", "adv": "adv_", "adv_full": "adv_full_"}
        return {
            part: (file[f"{prefix}blocks"], file[f"{prefix}expected"])
            for part, prefix in parts.items()
            if f"{prefix}blocks" in file
        }


def group_tensors(name: str) -> dict[str, mx.array]:
    """The tensors of a group set, by the last part of their names; `expected` is [out, in]."""
    tensors = mx.load(str(FIXTURES / "groups" / name / "tensors.safetensors"))
    return {key.rpartition(".")[2]: array for key, array in tensors.items()}


def group_settings(name: str) -> dict:
    """The quantization settings of a group set, as its tool wrote them."""
    config = json.loads((FIXTURES / "groups" / name / "config.json").read_text())
    return config["quantization_config"]


def group_fixture(name: str) -> tuple[mxd.QuantizedWeight, mx.array]:
    """The weight of a group set, and what its tool unpacked, in the weight's shape and dtype."""
    tensors = group_tensors(name)
    settings = group_settings(name)
    expected = tensors.pop("expected")
    if settings["quant_method"] == "compressed-tensors":
        scheme = settings["config_groups"]["group_0"]["weights"]
        size = scheme["group_size"] or -1
        return mxd.CompressedTensorsWeight(**tensors, bits=scheme["num_bits"], group_size=size), expected
    if settings["quant_method"] == "awq":
        return mxd.AWQWeight(**tensors, group_size=settings["group_size"]), expected.T
    version = "v2" if settings.get("checkpoint_format") == "gptq_v2" else "v1"
    size, bits = settings["group_size"], settings["bits"]
    return mxd.GPTQWeight(**tensors, group_size=size, bits=bits, zero_points=version), expected.T


def bits(array: mx.array | np.ndarray) -> np.ndarray:
    """The bits of an array of floats, as unsigned integers of their size."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).view(f"u{array.itemsize}")
    with mx.stream(mx.cpu):
        return np.array(mx.contiguous(array).view(mx.uint32 if array.dtype == mx.float32 else mx.uint16))


# The bits of infinity: what lies above, sign aside, is a NaN.
_INFINITY = {mx.float32: 0x7F800000, mx.float16: 0x7C00, mx.bfloat16: 0x7F80}


def assert_same(found: mx.array, expected: np.ndarray, what: str = "") -> None:
    """`found` has the bits `expected`, or any NaN where those are a NaN's, or on Metal a zero for a subnormal."""
    ours = bits(found)
    assert ours.shape == expected.shape, f"{what}: shape {ours.shape}, expected {expected.shape}"
    assert ours.dtype == expected.dtype, f"{what}: {found.dtype}, expected {expected.dtype} bits"
    values = compare.as_float32(found), compare.as_float32(mx.array(expected).view(found.dtype))
    result = compare.same_bits(*values, flushes=mxd.current_backend() == "metal")
    assert not result.wrong, f"{what}: {result}"


def rounded(exact: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The bits of float32 values in `dtype`, rounded to nearest even with integers alone."""
    word = bits(exact).astype(np.int64)
    if dtype == mx.float32:
        return word.astype(np.uint32)
    sign, word = word >> 31 << 15, word & 0x7FFFFFFF
    nan = word > 0x7F800000
    if dtype == mx.bfloat16:
        significand, shift, base = word, 16, 0
    else:
        exponent = word >> 23
        significand = word & 0x7FFFFF | np.where(exponent > 0, 1 << 23, 0)
        # Below 2^-14 float16 has fewer bits left, and none below 2^-25.
        shift = np.clip(126 - np.maximum(exponent, 1), 13, 25)
        base = np.maximum(exponent - 113, 0) << 10
    kept = significand >> shift
    lost = significand - (kept << shift)
    half = 1 << shift - 1
    kept += (lost > half) | (lost == half) & (kept & 1 == 1)
    magnitude = np.minimum(base + kept, _INFINITY[dtype])
    return (sign | np.where(nan, 0x7FFF, magnitude)).astype(np.uint16)


def each_with_one(names, kinds):
    """Every name with every kind; in `make test` each name with one of them, in turn."""
    return [
        pytest.param(name, kind, id=f"{name}-{kind}", marks=() if i == at % len(kinds) else pytest.mark.full)
        for at, name in enumerate(names)
        for i, kind in enumerate(kinds)
    ]


@contextmanager
def freed_at_once(matrix):
    """The block drops its references to a matrix, which is gone then, before Python looks for circles."""
    gone = weakref.ref(matrix)
    del matrix
    gc.disable()
    try:
        yield
        assert gone() is None
    finally:
        gc.enable()


def in_four_threads(work) -> None:
    """Calls `work` in four threads at once; what one raises fails the test."""
    failures = []

    def run():
        try:
            work()
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=run) for _ in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(100)
    assert failures == []
    assert not any(thread.is_alive() for thread in started)
