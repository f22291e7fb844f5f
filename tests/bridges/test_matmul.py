"""vLLM's product functions: x through layers whose weights stay packed."""

from fractions import Fraction

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_product, awq_layer, awq_plain, gptq_layer, gptq_plain  # noqa: E402

from mlx_dequant.bridges.mps_dequant import awq_dequant_matmul, gptq_dequant_matmul  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SHAPES = ((1, 256), (5, 256), (2, 3, 256), (256,), (0, 256), (2, 0, 256), (40, 256))


def activations(*shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def exact_awq(layer, config):
    return awq_plain(layer.qweight, layer.scales.double(), layer.qzeros, config.group_size)


def exact_gptq(layer, config, v2=False):
    tensors = layer.qweight, layer.scales.double(), layer.qzeros, layer.g_idx
    return gptq_plain(*tensors, config.group_size, v2, config.weight_bits)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_awq(dtype, shape, bias):
    layer, config = awq_layer()
    x = activations(*shape, dtype=dtype)
    added = activations(64, dtype=dtype) if bias else None
    assert_product(awq_dequant_matmul(x, layer, added, config), x, exact_awq(layer, config), added)


@pytest.mark.parametrize("act_order", [False, True], ids=["empty g_idx", "act-order"])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits, v2, act_order):
    layer, config = gptq_layer(bits=bits, act_order=act_order)
    x, bias = activations(2, 3, 256, dtype=torch.float16), activations(64, dtype=torch.float16)
    y = gptq_dequant_matmul(x, layer, bias, config, v2)
    assert_product(y, x, exact_gptq(layer, config, v2), bias)


@pytest.mark.parametrize("x_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_and_activations_of_different_types(dtype, x_dtype):
    x = activations(3, 256, dtype=x_dtype)
    layer, config = awq_layer(dtype=dtype)
    assert_product(awq_dequant_matmul(x, layer, None, config), x, exact_awq(layer, config))
    layer, config = gptq_layer(dtype=dtype)
    assert_product(gptq_dequant_matmul(x, layer, None, config), x, exact_gptq(layer, config))


@pytest.mark.parametrize("inputs", [96, 160])
@pytest.mark.parametrize("group_size", [-1, 64])
def test_one_group_and_a_short_last_one(group_size, inputs):
    x = activations(3, inputs, dtype=torch.float16)
    layer, config = awq_layer(inputs, group_size=group_size)
    assert_product(awq_dequant_matmul(x, layer, None, config), x, exact_awq(layer, config))
    layer, config = gptq_layer(inputs, group_size=group_size)
    assert_product(gptq_dequant_matmul(x, layer, None, config), x, exact_gptq(layer, config))


def test_non_contiguous_activations():
    layer, config = awq_layer()
    x = activations(256, 6, dtype=torch.float16).T[::2]
    assert not x.is_contiguous()
    assert_product(awq_dequant_matmul(x, layer, None, config), x, exact_awq(layer, config))


def test_the_result_is_memory_of_its_own():
    layer, config = awq_layer()
    x = activations(2, 256, dtype=torch.float32)
    first = awq_dequant_matmul(x, layer, None, config)
    kept = first.clone()
    second = awq_dequant_matmul(x, layer, None, config)
    first.zero_()
    assert torch.equal(second, kept)


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (4, {}),
        (4, {"bits": 4}),
        (4, {"weight_bits": 4, "pack_factor": Fraction(32, 4)}),
        (3, {"weight_bits": 3, "pack_factor": Fraction(32, 3)}),
        (8, {"bits": 8, "pack_factor": 4}),
    ],
)
def test_a_config_names_its_bits_as_vllm_does_or_not_at_all(bits, names):
    layer, config = gptq_layer(bits=bits)
    expected = exact_gptq(layer, config)
    config = type("Config", (), {"group_size": 64, **names})()
    x = activations(2, 256, dtype=torch.float16)
    assert_product(gptq_dequant_matmul(x, layer, None, config), x, expected)
