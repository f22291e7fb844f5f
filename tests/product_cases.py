"""Quantized weights of ordinary numbers, and checks of matmuls with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import FIXTURES, gguf_fixture, rounded

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.diagnostics import bounds, compare, sample_weights

FORMATS = mxd.formats()

# All that a kernel distinguishes about formats, in as few of them as have it.
TRAITS = (
    "f16",  # a weight a block
    "q8_0",  # signed bytes times one scale
    "q4_k",  # scales of scales, and a min
    "q6_k",  # short runs that share a scale
    "mxfp4",  # scales far from one another
    "iq2_xs",  # a table
    "awq4",  # by columns, fields in turns
    "gptq4",  # by columns, act-order
    "gptq3",  # fields that straddle words
    "ct4",  # by rows, streams, act-order
    "ct3",  # streams that straddle words
)
# One a family.
FAMILIES = ("f16", "q4_k", "awq4", "gptq3", "ct4")

ROWS = (1, 2, 7, 16, 17, 64, 100)
# Outputs and inputs: formats round them up to what they can have. Rows that end inside a run, and
# more rows than one of qvm's splits takes.
SIZES = ((37, 520), (130, 77))
# With this one, families with act-order have groups of different sizes, so that no inputs can be sorted.
UNSORTED = (40, 48)
# One that has whole blocks of qmm in both layouts, and rows left over.
TILED = (192, 128)

# One that has those and several steps, both ways.
MANY = (160, 672)

# One that has two whole blocks of outputs and part of one, an odd number of steps and part of one; AWQ's rows begin at
# any word.
LONG = (264, 9 * 128 + 32)


def by_traits(names: Iterable[str] = FORMATS, fast: Iterable[str] = TRAITS) -> list[Any]:
    """Names for a test, of which `make test` has those of `fast`."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.full) for name in names]


def on_backends(names: Iterable[str], dtypes: Sequence[mx.Dtype]) -> list[Any]:
    """Every name with every type on every backend. In `make test` each of `TRAITS` with one type, in turn.

    The reference multiplies with what others are compared with: `make test` has one name a family there.
    """
    return [
        pytest.param(
            name,
            dtype,
            backend,
            id=f"{name}-{dtype}-{backend}",
            marks=()
            if name in (FAMILIES if backend == "reference" else TRAITS) and i == TRAITS.index(name) % len(dtypes)
            else pytest.mark.full,
        )
        for name in names
        for i, dtype in enumerate(dtypes)
        for backend in mxd.available_backends()
    ]


@cache
def weight(name: str, size: tuple[int, int] = SIZES[0]) -> mxd.QuantizedWeight:
    """A weight of the format as real ones are; with the second of `SIZES`, and with `UNSORTED`, it has act-order."""
    outputs, inputs = size
    form = FORMATS[name]
    rng = np.random.default_rng(list(FORMATS).index(name))
    if form.family != "gguf":
        return sample_weights.groups(name, rng, inputs, outputs, plain=True, **act_order(name, size))
    if (FIXTURES / "gguf" / f"{name}.npz").exists():
        blocks = gguf_fixture(name)["real"][0].reshape(-1, form.bytes)
    else:
        blocks = rng.normal(size=(4096, 1)).astype(np.float32).view(np.uint8)
    count = -(-inputs // form.weights)
    return mxd.GGUFWeight(blocks[rng.integers(0, len(blocks), outputs * count)].reshape(outputs, -1), name)


def act_order(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The group size and g_idx of weights of a size: the last group of the second of `SIZES` is shorter."""
    if name == "awq4":
        return {"group_size": 16 if size == SIZES[1] else 32}
    kinds = {SIZES[1]: (32, "shuffled"), UNSORTED: (16, "uneven")}
    group_size, g_idx = kinds.get(size, (32, ""))
    return {"group_size": group_size, "g_idx": g_idx}


@cache
def wide_groups(name: str) -> mxd.QuantizedWeight:
    """Whole groups of 128 inputs, or as long blocks; outputs past a block."""
    if FORMATS[name].family == "gguf":
        return weight(name, (132, 1024))
    return sample_weights.groups(name, np.random.default_rng(6), 640, 160, 128, plain=True)


# Where blocks have their scale, of formats whose weights are it times whole numbers.
SCALE_AT = {"q4_0": 0, "q5_0": 0, "q8_0": 0, "iq4_nl": 0, "q3_k": 108, "q6_k": 208, "tq1_0": 52, "tq2_0": 64}
SCALE_AT |= dict.fromkeys(
    ("mxfp4", "nvfp4", "q1_0", "q2_0", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), 0
)
SCALED = (*SCALE_AT, *(name for name, form in FORMATS.items() if form.family != "gguf"))


@cache
def small_and_large(name: str) -> mxd.QuantizedWeight:
    """One of `SCALED`, with scales from float16's smallest up to 8, which no product of a weight overflows with."""
    packed = weight(name, (288, 672))  # whole blocks and several steps, in both layouts
    rng = np.random.default_rng(9)
    key = "blocks" if name in SCALE_AT else "scales"
    array = np.array(packed.arrays[key])
    blocks = array.reshape(-1, packed.format.bytes) if name in SCALE_AT else array.reshape(-1, 1).view(np.uint8)
    at = SCALE_AT.get(name, 0)
    scales = rng.integers(0, 0x4800, len(blocks), np.uint16) | rng.integers(0, 2, len(blocks), np.uint16) << 15
    scales[:6] = (0x0001, 0x8001, 0x03FF, 0x0400, 0x47FF, 0xC7FF)
    scales = rng.permutation(scales)
    if name == "mxfp4":  # 2^-41 to 2^12
        blocks[:, 0] = rng.integers(86, 140, len(blocks))
    elif name == "nvfp4":
        blocks[:, :4] = rng.permutation(np.arange(4 * len(blocks)) % 127).reshape(-1, 4)
    elif name == "iq1_m":  # the high nibbles of four words are one
        blocks[:, 49:56:2] = blocks[:, 49:56:2] & 15 | (scales[:, None] >> [0, 4, 8, 12] & 15) << 4
    else:
        blocks[:, at : at + 2] = scales.reshape(-1, 1).view(np.uint8)
    return packed.replace(**{key: mx.array(array)})


def shuffled(
    name: str, inputs: int = 320, outputs: int = 96, size: int = 32, group: np.ndarray | None = None
) -> mxd.QuantizedWeight:
    """A weight whose inputs have been shuffled, groups of `size`; or of the groups given."""
    rng = np.random.default_rng(len(name) + inputs)
    packed = sample_weights.groups(name, rng, inputs, outputs, size, plain=True, g_idx="shuffled")
    return packed if group is None else packed.replace(g_idx=mx.array(group.astype(np.int32)))


@cache
def exact(packed: mxd.QuantizedWeight) -> np.ndarray:
    """[out, in] float64 of the weight, exact to the last bit."""
    return compare.exact(packed).astype(np.float64)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)


def wide(array: mx.array) -> np.ndarray:
    """The values in float64."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def check_products(
    packed: mxd.QuantizedWeight, dtype: mx.Dtype, count: int, seed: int = 0, gradient: bool = True
) -> None:
    """`linear` of `count` rows of x, and its gradient if asked for, are as near to exact as `dtype` allows."""
    rng = np.random.default_rng(seed)
    x = numbers(rng, (count, packed.in_features), dtype)
    check_near(packed, packed.linear(x), x, exact(packed).T, f"{packed} {dtype} {count}")
    if not gradient:
        return
    cotangent = numbers(rng, (count, packed.out_features), dtype)
    found = mx.vjp(packed.linear, [x], [cotangent])[1][0]
    check_near(packed, found, cotangent, exact(packed), f"gradient {packed} {dtype} {count}")


def check_near(packed: mxd.QuantizedWeight, found: mx.array, x: mx.array, dense: np.ndarray, what: str) -> None:
    """`found` is x @ dense, a product with a weight, within the bound of a matmul."""
    assert found.dtype == x.dtype
    rounds = bounds.rounds_weights(backends.current_backend(), len(x), packed.matrix)
    result = compare.within(wide(found), *bounds.matmul_bound(wide(x), dense, x.dtype, rounds))
    assert not result.wrong, f"{what}: {result}"


def check_single_inputs(packed: mxd.QuantizedWeight, dtype: mx.Dtype, count: int) -> None:
    """Vectors with a single 1 pick rows and columns of the weight, each weight rounded once."""
    rng = np.random.default_rng(count)
    dense = exact(packed).astype(np.float32)
    for matrix, call in ((dense.T, packed.linear), (dense, lambda x: _transposed(packed, x))):
        picked = rng.integers(0, len(matrix), count)
        hot = np.zeros((count, len(matrix)), np.float32)
        hot[np.arange(count), picked] = 1
        same_values(call(mx.array(hot).astype(dtype)), matrix[picked], f"{packed} {dtype} {count}")


def _transposed(packed: mxd.QuantizedWeight, cotangent: mx.array) -> mx.array:
    x = mx.zeros((len(cotangent), packed.in_features), cotangent.dtype)
    return mx.vjp(packed.linear, [x], [cotangent])[1][0]


def same_values(found: mx.array, values: np.ndarray, what: str) -> None:
    """`found` is the float32 `values`, each rounded once; zeros may lose their sign in a sum."""
    with mx.stream(mx.cpu):
        expected = mx.array(rounded(values, found.dtype)).view(found.dtype)
    np.testing.assert_array_equal(wide(found), wide(expected), what)


def near(found, expected):
    """Sums of small sizes in float32 are good to about 1e-6 of the largest result."""
    found, expected = np.array(found, np.float64), np.array(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3, "nothing to compare"
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def near_jvp(call, twin, x):
    for found, expected in zip(mx.jvp(call, [x], [x * 2]), mx.jvp(twin, [x], [x * 2]), strict=True):
        near(found[0], expected[0])
