"""Stacks of weights: mxd.stack, an expert of one, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest
from expert_cases import EXPERTS, experts
from product_cases import FAMILIES, FORMATS, SIZES, by_traits
from support import assert_same, bits

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights


def layers(name, count=3, **options):
    rng = np.random.default_rng(0)
    return [sample_weights.groups(name, rng, 64, 32, 32, plain=True, **options) for _ in range(count)]


@pytest.mark.parametrize("name", by_traits(FORMATS, FAMILIES))
def test_a_stack_dequantizes_to_its_experts(name, backend):
    for size in SIZES:
        packed, dense = experts(name, size)
        assert packed.shape == dense.shape == (EXPERTS, packed.out_features, packed.in_features)
        assert packed.experts == EXPERTS
        assert_same(packed.dequantize(mx.float32), bits(dense.astype(np.float32)), name)
        assert packed.dequantize(mx.bfloat16).dtype == mx.bfloat16


@pytest.mark.parametrize("name", ["q4_k", "awq4", "gptq3", "ct4"])
def test_an_expert_is_a_weight(name, backend):
    for size in SIZES:
        packed, dense = experts(name, size)
        for number in (0, 3, -1):
            one = packed[number]
            assert type(one) is type(packed) and one.experts == 1
            found = one.dequantize(mx.float32)
            found = found.T if one.matrix.layout == "KN" else found
            assert_same(found, bits(np.ascontiguousarray(dense[number], np.float32)), f"{name} {number}")
        x = mx.ones((2, packed.in_features))
        assert mx.array_equal(packed[2].linear(x), packed.gather_linear(x, mx.array([[2], [2]]))[:, 0])
        assert [each.shape for each in packed] == EXPERTS * [one.shape]


@pytest.mark.parametrize("number", [EXPERTS, -EXPERTS - 1])
def test_an_expert_that_is_none(number):
    with pytest.raises(IndexError, match=rf"expert: found {number}, expected -5 to 4"):
        experts("q8_0")[0][number]


def test_a_matrix_has_no_experts():
    packed = experts("q8_0")[0][0]
    for use in (lambda: packed[0], lambda: list(packed)):
        with pytest.raises(mxd.FormatError, match=r"weight: found shape \(37, .*, expected a stack"):
            use()


@pytest.mark.parametrize("name", ["gptq4", "ct4"])
def test_experts_with_act_order_and_without(name, backend):
    """An expert whose groups are in order gets the g_idx that says so."""
    each = [*layers(name, 2, g_idx="shuffled"), *layers(name, 1)]
    assert each[2].arrays["g_idx"] is None
    packed = mxd.stack(each)
    for number, one in enumerate(each):
        assert mx.array_equal(packed[number].dequantize(mx.float32), one.dequantize(mx.float32))


def test_a_stack_of_one(backend):
    for name in ("awq4", "ct4"):
        (one,) = layers(name, 1)
        packed = mxd.stack([one])
        dense = one.dequantize(mx.float32)
        assert packed.shape == (1, 32, 64)
        assert mx.array_equal(packed.dequantize(mx.float32)[0], dense.T if name == "awq4" else dense)


def test_gguf_matrices_are_stacked_like_a_tensor_of_three_axes(backend):
    packed, _ = experts("q5_1")
    again = mxd.stack(list(packed))
    assert (again.shape, again.format) == (packed.shape, packed.format)
    assert mx.array_equal(again.arrays["blocks"], packed.arrays["blocks"])


def test_an_array_is_replaced(backend):
    packed, dense = experts("gptq4", SIZES[1])
    doubled = packed.replace(scales=packed.arrays["scales"].astype(mx.float32) * 2)
    assert np.array_equal(np.array(doubled.dequantize()), 2 * dense.astype(np.float32))
    with pytest.raises(mxd.FormatError, match=r"g_idx: found groups 9 to 9, expected 0 to 2"):
        packed.replace(g_idx=mx.full(packed.arrays["g_idx"].shape, 9, mx.int32))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (lambda: [], "weights: found none, expected at least one"),
        (lambda: layers("gptq8", 1), r"weights\[1\]: found GPTQ 8-bit .*, expected GPTQ 4-bit .* as the first has it"),
        (lambda: layers("gptq4", 1, scales=mx.bfloat16), r"weights\[1\]: found .*bfloat16.*, expected .*float16"),
        (
            lambda: layers("gptq4", 1, zeros="v2"),
            r"weights\[1\]: found .*'zero_word': 0.*, expected .*'zero_word': 286",
        ),
        (lambda: layers("awq4", 1), r"weights\[1\]: found AWQ 4-bit"),
        (lambda: [experts("gptq4")[0]], r"weights\[1\]: found GPTQWeight \(5, 40, 520\), expected a quantized matrix"),
        (lambda: [mx.ones((64, 32))], r"weights\[1\]: found array \(64, 32\), expected a quantized matrix"),
    ],
)
def test_what_is_no_stack_is_refused(others, message):
    added = others()
    with pytest.raises(mxd.FormatError, match=message):
        mxd.stack([*layers("gptq4", 1), *added] if added else [])


def test_zero_points_in_some_are_refused():
    each = [*layers("ct4", 1), *layers("ct4", 1, zeros="none")]
    with pytest.raises(mxd.FormatError, match=r"weights\[1\]: found .*'has_zeros': 0.*, expected .*'has_zeros': 1"):
        mxd.stack(each)
