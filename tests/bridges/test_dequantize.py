"""vLLM's unpacking functions: bit for bit what plain torch arithmetic gives."""

import math

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_bits, awq_layer, awq_plain, gptq_layer, gptq_plain  # noqa: E402
from support import GGUF_TYPES, GROUP_SETS, gguf_fixture, group_settings, group_tensors  # noqa: E402

from mlx_dequant import formats  # noqa: E402
from mlx_dequant.bridges import dequant_gguf, dequant_int4, mps_dequant  # noqa: E402
from mlx_dequant.bridges.operators import operator  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# inputs, group size: even groups, one for all, a short last one
GROUPINGS = ((256, 64), (256, -1), (160, 64), (96, 32), (8, 128))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inputs", "size"), GROUPINGS)
def test_awq(inputs, size, dtype):
    layer, _ = awq_layer(inputs, 72, size, dtype)
    tensors = layer.qweight, layer.scales, layer.qzeros
    expected = awq_plain(*tensors, size)
    assert_bits(mps_dequant._pytorch_dequant_awq(*tensors, size), expected)
    assert_bits(dequant_int4.dequantize_awq(*tensors, size), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_lie_in_memory_as_torch_multiplies_them_fastest(dtype):
    awq, gptq = awq_layer(dtype=dtype)[0], gptq_layer(dtype=dtype)[0]
    found = dequant_int4.dequantize_awq(awq.qweight, awq.scales, awq.qzeros, 64)
    assert (found.is_contiguous(), found.T.is_contiguous()) == (dtype == torch.float32, dtype != torch.float32)
    found = dequant_int4.dequantize_gptq(gptq.qweight, gptq.scales, gptq.qzeros, None, 64, 1)
    assert (found.is_contiguous(), found.T.is_contiguous()) == (dtype == torch.float32, dtype != torch.float32)


@pytest.mark.parametrize("word", [0, -1], ids=["zeros of 0", "zeros of 15"])
def test_awq_zero_points_at_their_ends(word):
    layer, _ = awq_layer()
    layer.qzeros.fill_(word)
    tensors = layer.qweight, layer.scales, layer.qzeros
    assert_bits(mps_dequant._pytorch_dequant_awq(*tensors, 64), awq_plain(*tensors, 64))


@pytest.mark.parametrize("act_order", [False, True], ids=["empty g_idx", "act-order"])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inputs", "size"), GROUPINGS)
def test_gptq(inputs, size, dtype, v2, act_order):
    layer, _ = gptq_layer(inputs, 72, size, dtype=dtype, act_order=act_order)
    tensors = layer.qweight, layer.scales, layer.qzeros, layer.g_idx
    expected = gptq_plain(*tensors, size, v2)
    assert_bits(mps_dequant._pytorch_dequant_gptq(*tensors, size, v2), expected)
    assert_bits(dequant_int4.dequantize_gptq(*tensors, size, 0 if v2 else 1), expected)


@pytest.mark.parametrize("word", [0, -1], ids=["stored 0", "stored 15"])
def test_gptq_zero_points_do_not_wrap(word):
    layer, _ = gptq_layer()
    layer.qzeros.fill_(word)
    tensors = layer.qweight, layer.scales, layer.qzeros, None
    found = mps_dequant._pytorch_dequant_gptq(*tensors, 64)
    assert_bits(found, gptq_plain(*tensors, 64))
    # Stored 15 means 16: no weight is at or above its zero point.
    code = 5
    layer.qweight.fill_(0x55555555)
    found = mps_dequant._pytorch_dequant_gptq(*tensors, 64)
    assert_bits(found[:64], ((code - (16 if word else 1)) * layer.scales[:1]).expand(64, -1))


def test_scales_at_the_ends_of_float16():
    layer, _ = awq_layer()
    layer.scales[1, :6] = torch.tensor([math.inf, -math.inf, math.nan, 65504, 6e-8, -0.0])
    tensors = layer.qweight, layer.scales, layer.qzeros
    assert_bits(mps_dequant._pytorch_dequant_awq(*tensors, 64), awq_plain(*tensors, 64))


def strided(tensor):
    """The same values with other strides and an offset."""
    wide = torch.zeros(tensor.shape[0] + 1, 2 * tensor.shape[1] + 1, dtype=tensor.dtype)
    view = wide[1:, 1::2]
    view.copy_(tensor)
    assert not view.is_contiguous()
    return view


def test_non_contiguous_tensors():
    layer, _ = awq_layer()
    tensors = layer.qweight, layer.scales, layer.qzeros
    assert_bits(mps_dequant._pytorch_dequant_awq(*map(strided, tensors), 64), awq_plain(*tensors, 64))
    layer, _ = gptq_layer(act_order=True)
    tensors = layer.qweight, layer.scales, layer.qzeros
    sparse = torch.stack([layer.g_idx, layer.g_idx], 1)[:, 0]
    found = mps_dequant._pytorch_dequant_gptq(*map(strided, tensors), sparse, 64)
    assert_bits(found, gptq_plain(*tensors, layer.g_idx, 64))


@pytest.mark.parametrize("name", [name for name in GROUP_SETS if not name.startswith("ct_")])
def test_group_fixtures(name):
    settings = group_settings(name)
    tensors = {key: to_torch(array, "cpu") for key, array in group_tensors(name).items()}
    expected = tensors["expected"].T
    qweight, scales, qzeros = tensors["qweight"], tensors["scales"], tensors["qzeros"]
    size = settings["group_size"]
    if settings["quant_method"] == "awq":
        found = mps_dequant._pytorch_dequant_awq(qweight, scales, qzeros, size)
        assert_bits(found, awq_plain(qweight, scales, qzeros, size))
        assert_bits(found, expected)
        return
    v2 = settings.get("checkpoint_format") == "gptq_v2"
    bits = settings["bits"]
    mode = "v2" if v2 else "v1-field"
    found = operator("gptq", "dequantize")(qweight, scales, qzeros, tensors.get("g_idx"), size, mode, bits, None)
    assert_bits(found, gptq_plain(qweight, scales, qzeros, tensors.get("g_idx"), size, v2, bits))
    # Where the tool's rule and vLLM's agree on every zero point, so do the weights.
    zeros = qzeros.numpy().view(np.uint32)
    top = (1 << bits) - 1
    wraps = any(((zeros >> at & top) == top).any() for at in range(0, 32 - bits + 1, bits)) if bits != 3 else True
    if v2 or not wraps:
        assert_bits(found, expected)
    if bits == 4:
        assert_bits(mps_dequant._pytorch_dequant_gptq(qweight, scales, qzeros, tensors.get("g_idx"), size, v2), found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GGUF_TYPES)
def test_gguf_fixtures(name, dtype):
    number = formats()[name].ggml_type
    for blocks, exact in gguf_fixture(name).values():
        expected = torch.from_numpy(exact).to(dtype)
        bytes_ = torch.from_numpy(blocks.copy())
        m, n = exact.shape
        for function in (mps_dequant._pytorch_dequant_gguf, mps_dequant.gguf_dequant_on_mps):
            assert_bits(function(bytes_, number, m, n, dtype), expected)
        assert_bits(dequant_gguf.dequantize_gguf(bytes_.reshape(-1), number, m, n, dtype), expected)


@pytest.mark.parametrize("name", ["q4_k", "iq2_xs", "f32"])
def test_gguf_gives_float16_unless_told(name):
    number = formats()[name].ggml_type
    blocks, exact = gguf_fixture(name)["real"] if name != "f32" else (np.ones((2, 8), np.uint8), np.zeros((2, 2)))
    found = mps_dequant.gguf_dequant_on_mps(
        torch.from_numpy(blocks.copy()), gguf.GGMLQuantizationType(number), *exact.shape
    )
    assert found.dtype == torch.float16


@pytest.mark.parametrize(("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_unpacked_types_come_out_as_memory_of_their_own(kind, dtype):
    number = formats()[kind.lower()].ggml_type
    values = torch.randn(3, 8).to(dtype)
    blocks = values.view(torch.uint8)
    for _ in range(2):
        found = mps_dequant.gguf_dequant_on_mps(blocks, number, 3, 8, dtype)
        assert_bits(found, values)
        found.zero_()


def test_a_tensor_with_a_gradient_and_inference_tensors():
    layer, _ = awq_layer()
    expected = awq_plain(layer.qweight, layer.scales, layer.qzeros, 64)
    scales = torch.nn.Parameter(layer.scales)
    found = mps_dequant._pytorch_dequant_awq(layer.qweight, scales, layer.qzeros, 64)
    assert not found.requires_grad
    assert_bits(found, expected)
    with torch.inference_mode():
        clones = [t.clone() for t in (layer.qweight, layer.scales, layer.qzeros)]
        assert_bits(mps_dequant._pytorch_dequant_awq(*clones, 64), expected)


def test_the_getters_give_the_modules_and_say_once_who_serves(caplog):
    for function in (mps_dequant._get_metal_dequant, mps_dequant._get_metal_dequant_gguf, mps_dequant._log_once):
        function.cache_clear()
    with caplog.at_level("INFO", logger="mlx_dequant"):
        for _ in range(2):
            assert mps_dequant._get_metal_dequant() is dequant_int4
            assert mps_dequant._get_metal_dequant_gguf() is dequant_gguf
    assert len(caplog.records) == 1
