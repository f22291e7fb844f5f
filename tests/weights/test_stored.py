"""Descriptions: with them, arrays are a weight again; damaged ones are refused."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.weights import stored

RNG = np.random.default_rng(0)
GROUPS = {
    "awq": ("awq4", {}),
    "one group": ("awq4", {"group_size": -1}),
    "a short group": ("gptq4", {"group_size": 48}),
    "gptq v1": ("gptq4", {"zeros": "v1"}),
    "gptq v1-field, 3 bits": ("gptq3", {"zeros": "v1-field"}),
    "gptq v2": ("gptq8", {"zeros": "v2"}),
    "act-order": ("gptq4", {"g_idx": "shuffled"}),
    "groups of any size": ("gptq2", {"g_idx": "uneven"}),
    "compressed-tensors": ("ct4", {}),
    "without zero points": ("ct8", {"zeros": "none"}),
    "compressed-tensors, act-order": ("ct2", {"g_idx": "shuffled"}),
    "groups of 24": ("ct3", {"group_size": 24}),
    "bfloat16": ("ct4", {"scales": mx.bfloat16}),
}


def assert_restored(weight) -> None:
    arrays = {name: array for name, array in weight.arrays.items() if array is not None}
    again = stored.restore(stored.description(weight), arrays)
    assert type(again) is type(weight)
    assert (again.shape, again.dtype, again.settings) == (weight.shape, weight.dtype, weight.settings)
    assert again.matrix.loader_params == weight.matrix.loader_params
    found, expected = again.dequantize(mx.float32), weight.dequantize(mx.float32)
    assert mx.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name):
    form, settings = GROUPS[name]
    assert_restored(sample_weights.groups(form, RNG, 96, 64, **{"group_size": 32, "plain": True, **settings}))


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q6_k", "f16"])
def test_gguf(name):
    assert_restored(sample_weights.gguf(name, RNG, 6, 256))


def test_leading_axes():
    weight = sample_weights.gguf("q8_0", RNG, 6, 64)
    assert_restored(mxd.GGUFWeight(weight.arrays["blocks"], "Q8_0", (2, 3, 64)))


BLOCKS = {"blocks": mx.zeros((2, 34), mx.uint8)}
GOOD = {"family": "gguf", "type": "q8_0", "shape": [2, 32]}


@pytest.mark.parametrize(
    ("text", "arrays", "message"),
    [
        ("[]", BLOCKS, r"mlx_dequant: found '\[\]', expected a JSON object"),
        ("{", BLOCKS, "mlx_dequant: found '{', expected a JSON object"),
        (GOOD | {"family": "exl2"}, BLOCKS, "family: found 'exl2', expected one of gguf, awq"),
        (GOOD | {"family": ["gguf"]}, BLOCKS, "family: found "),
        (GOOD | {"type": "q9_0"}, BLOCKS, "type: found 'q9_0', expected one of"),
        (GOOD | {"shape": [2, 64]}, BLOCKS, "blocks: found 68 bytes, expected 136"),
        (GOOD | {"shape": "two"}, BLOCKS, "shape"),
        (GOOD | {"bits": 4}, BLOCKS, "mlx_dequant: found .*unexpected keyword argument 'bits'"),
        (GOOD, {}, "mlx_dequant: found .* and no array: .*missing"),
        (GOOD, BLOCKS | {"scales": mx.zeros(1)}, "mlx_dequant: found array 'scales', expected blocks"),
    ],
)
def test_damage_is_refused(text, arrays, message):
    text = text if isinstance(text, str) else json.dumps(text)
    with pytest.raises(mxd.FormatError, match=message):
        stored.restore(mx.array(np.frombuffer(text.encode(), np.uint8)), arrays)


def test_a_description_that_is_no_text():
    with pytest.raises(mxd.FormatError, match=r"mlx_dequant: found .*float32 \(2,\), expected uint8 \[bytes\]"):
        stored.restore(mx.zeros(2), BLOCKS)
