"""vLLM's layers as its loaders leave them: argsort(g_idx), GGUF shards, other bits; releasing torch's copy."""

import re
import weakref
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

import mlx.core as mx  # noqa: E402
from bridge_support import assert_bits, assert_product, awq_layer, gptq_layer, gptq_plain  # noqa: E402

from mlx_dequant import FormatError, bridges  # noqa: E402
from mlx_dequant.bridges import dequant_int4, mps_dequant  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

INPUTS = 256
# Rows and type of each shard, by vLLM's names of shards.
QKV = {"q": (48, "q4_k"), "k": (16, "q6_k"), "v": (16, "iq4_xs")}
GATE_UP = {0: (32, "q8_0"), 1: (32, "q8_0")}


def rows(count=3, dtype=torch.float32):
    return torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(3)).to(dtype)


def fused(parts, order):
    """A layer of shards that were loaded in an order, and its dense matrix [in, out]."""
    weights = {key: sample_weights.layer(kind, count, INPUTS) for key, (count, kind) in parts.items()}
    blocks = {key: to_torch(weight.arrays["blocks"], "cpu") for key, weight in weights.items()}
    width = max(block.shape[1] for block in blocks.values())
    qweight = torch.nn.Parameter(torch.full((sum(map(len, blocks.values())), width), 255, dtype=torch.uint8), False)
    places, start = {}, 0
    for key in order:
        end = start + len(blocks[key])
        qweight.data[start:end, : blocks[key].shape[1]] = blocks[key]
        places[key] = start, end, blocks[key].shape[1]
        start = end
    qweight.shard_id, qweight.shard_offset_map = list(order), places
    kinds = {key: weight.format.ggml_type for key, weight in weights.items()}
    dense = [to_torch(weights[key].dequantize(mx.float32), "cpu") for key in parts]
    layer = SimpleNamespace(qweight=qweight, qweight_type=SimpleNamespace(shard_weight_type=kinds, weight_type=0))
    return layer, torch.cat(dense).T.double()


@pytest.mark.parametrize("parts, order", [(QKV, "qkv"), (QKV, "vqk"), (GATE_UP, (0, 1)), (GATE_UP, (1, 0))])
def test_shards_multiply_packed_and_cross_once(parts, order):
    layer, dense = fused(parts, order)
    x, bias = rows(), torch.randn(dense.shape[1])
    WEIGHTS.clear()
    found = mps_dequant.gguf_dequant_matmul(x, layer)
    assert_product(found, x, dense)
    assert_bits(mps_dequant.gguf_dequant_matmul(x, layer, bias), found + bias)
    entries = list(WEIGHTS._entries.values())
    assert len(entries) == len(parts)
    assert_bits(mps_dequant.gguf_dequant_matmul(x, layer), found)
    assert list(WEIGHTS._entries.values()) == entries
    # No padding is kept, and a reload counts.
    assert sum(entry.weight.nbytes for entry in entries) == sum(
        (end - start) * width for start, end, width in layer.qweight.shard_offset_map.values()
    )
    start, end, width = layer.qweight.shard_offset_map[order[0]]
    layer.qweight.data[start:end, :width] = layer.qweight.data[start:end, :width].flip(0)
    expected = dense.clone()
    at = sum(count for key, (count, _) in list(parts.items())[: list(parts).index(order[0])])
    expected[:, at : at + end - start] = dense[:, at : at + end - start].flip(1)
    assert_product(mps_dequant.gguf_dequant_matmul(x, layer), x, expected)


def test_gradients_flow_through_shards():
    layer, dense = fused(QKV, "qkv")
    x = rows().requires_grad_()
    y = mps_dequant.gguf_dequant_matmul(x, layer)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(gradient, (torch.ones_like(y).double() @ dense.T).float(), rtol=1e-3, atol=1e-2)


def test_a_layer_of_one_matrix_and_one_of_plain_numbers():
    weight = sample_weights.layer("q5_k", 32, INPUTS)
    dense = to_torch(weight.dequantize(mx.float32), "cpu")
    qweight = to_torch(weight.arrays["blocks"], "cpu")
    layer = SimpleNamespace(qweight=qweight, qweight_type=SimpleNamespace(weight_type=13))
    assert_product(mps_dequant.gguf_dequant_matmul(rows(), layer), rows(), dense.T.double())
    plain = SimpleNamespace(qweight=dense.half(), qweight_type=SimpleNamespace(weight_type=1))
    expected = torch.nn.functional.linear(rows(), dense.half().float())
    assert_bits(mps_dequant.gguf_dequant_matmul(rows(), plain), expected)


def test_a_shard_that_is_missing_is_named():
    layer, _ = fused(QKV, "qkv")
    del layer.qweight_type.shard_weight_type["k"]
    with pytest.raises(FormatError, match=r"shard_weight_type: found \['q', 'v'\], expected 'k' too"):
        mps_dequant.gguf_dequant_matmul(rows(), layer)
    del layer.qweight.shard_offset_map["v"]
    with pytest.raises(FormatError, match=r"shard_offset_map: found \['q', 'k'\], expected 'v' too"):
        mps_dequant.gguf_dequant_matmul(rows(), layer)
    unknown = SimpleNamespace(qweight=torch.zeros(4, 4).byte(), qweight_type=SimpleNamespace(weight_type=99))
    with pytest.raises(FormatError, match="qweight_type: found 99, expected GGUF's number"):
        mps_dequant.gguf_dequant_matmul(rows(), unknown)


def test_x_of_another_width_is_refused():
    layer, _ = fused(QKV, "qkv")
    with pytest.raises(FormatError, match="blocks: found 6912 bytes, expected 13824"):
        mps_dequant.gguf_dequant_matmul(torch.ones(3, 2 * INPUTS), layer)


@pytest.mark.parametrize("shape", [(1,), (), (3, 1), (1, 80), (3, 80), (4, 1, 80), (79,), (0,)], ids=str)
def test_a_bias_of_another_shape_is_refused(shape):
    layer, _ = fused(QKV, "qkv")
    with pytest.raises(FormatError, match=rf"bias: found shape {re.escape(str(shape))}, expected \(80,\)"):
        mps_dequant.gguf_dequant_matmul(rows(), layer, torch.ones(shape))


def test_x_of_another_width_is_refused_by_plain_numbers():
    layer = SimpleNamespace(qweight=torch.ones(32, INPUTS).half(), qweight_type=SimpleNamespace(weight_type=1))
    with pytest.raises(FormatError, match=r"x: found shape \(3, 5\), expected a last axis of 256"):
        mps_dequant.gguf_dequant_matmul(rows()[:, :5], layer)


def test_act_order_after_argsort_has_the_same_bits():
    layer, config = gptq_layer(act_order=True)
    x = rows()
    expected = mps_dequant.gptq_dequant_matmul(x, layer, None, config)
    layer.g_idx = torch.argsort(layer.g_idx).to(torch.int32)
    assert_bits(mps_dequant.gptq_dequant_matmul(x, layer, None, config), expected)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_module_that_install_registers_reads_other_bits(bits):
    layer, _ = gptq_layer(bits=bits)
    found = dequant_int4.dequantize_gptq(layer.qweight, layer.scales, layer.qzeros, layer.g_idx, 64, 1)
    assert_bits(found, gptq_plain(layer.qweight, layer.scales, layer.qzeros, layer.g_idx, 64, bits=bits))


def nbytes(tensor):
    return tensor.untyped_storage().nbytes()


def test_torchs_copy_is_released_and_new_codes_count():
    layer, config = awq_layer()
    x = rows()
    bridges.release(layer)  # not used yet
    assert nbytes(layer.qweight)
    expected, codes = mps_dequant.awq_dequant_matmul(x, layer, None, config), layer.qweight.clone()
    bridges.release(layer)
    assert (nbytes(layer.qweight), layer.qweight.shape) == (0, (0,))
    assert nbytes(layer.scales)
    assert_bits(mps_dequant.awq_dequant_matmul(x, layer, None, config), expected)
    layer.qweight.data = codes.flip(0)
    changed = mps_dequant.awq_dequant_matmul(x, layer, None, config)
    assert not torch.equal(changed, expected)
    bridges.release(layer)
    assert_bits(mps_dequant.awq_dequant_matmul(x, layer, None, config), changed)


AFTER_RELEASE = {
    "scales written": (lambda layer: layer.scales.mul_(2), 2),
    "scales replaced": (lambda layer: setattr(layer, "scales", layer.scales * 2), 2),
    "invalidated": (bridges.invalidate, 1),
    "a few scales, invalidated": (lambda layer: (layer.scales.data.mul_(2), bridges.invalidate(layer)), 2),
    "dropped from the cache": (lambda layer: WEIGHTS.clear(), 1),
    "released again": (bridges.release, 1),
}


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("then", AFTER_RELEASE)
def test_released_codes_are_never_lost(then, bits):
    layer, config = gptq_layer(bits=bits, act_order=True)
    x = rows()
    expected = mps_dequant.gptq_dequant_matmul(x, layer, None, config)
    dense = gptq_plain(layer.qweight, layer.scales, layer.qzeros, layer.g_idx, 64, bits=bits)
    bridges.release(layer)
    change, factor = AFTER_RELEASE[then]
    change(layer)
    assert layer.qweight.shape == (0,)
    assert_bits(mps_dequant.gptq_dequant_matmul(x, layer, None, config), expected * factor)
    found = dequant_int4.dequantize_gptq(layer.qweight, layer.scales, layer.qzeros, layer.g_idx, 64, 1)
    assert_bits(found, dense * factor)


def rewritten(layer, other):
    for name, tensor in vars(other).items():
        getattr(layer, name).copy_(tensor)


REWRITES = {
    "written": rewritten,
    "given other memory": lambda layer, other: setattr(layer.qweight, "data", other.qweight),
    "one value, uncounted": lambda layer, other: layer.qweight.data[0, 1].add_(1),
    "scales alone": lambda layer, other: layer.scales.mul_(2),
}


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_layer_rewritten_before_its_release_keeps_what_was_written(rewrite):
    layer, config = awq_layer()
    before = mps_dequant.awq_dequant_matmul(rows(), layer, None, config)
    REWRITES[rewrite](layer, awq_layer(seed=1)[0])
    fresh = SimpleNamespace(**{name: tensor.clone() for name, tensor in vars(layer).items()})
    expected = mps_dequant.awq_dequant_matmul(rows(), fresh, None, config)
    bridges.release(layer)
    assert not torch.equal(before, expected)
    assert_bits(mps_dequant.awq_dequant_matmul(rows(), layer, None, config), expected)


def test_shards_are_released():
    layer, dense = fused(QKV, "qkv")
    memory = layer.qweight.data.numpy().copy()
    layer.qweight.data = torch.from_numpy(memory)
    memory = weakref.ref(memory)
    mps_dequant.gguf_dequant_matmul(rows(), layer)
    bridges.release(layer)
    assert memory() is None
    assert layer.qweight.shape == (0,)
    assert_product(mps_dequant.gguf_dequant_matmul(rows(), layer), rows(), dense)


@pytest.mark.parametrize("rewrite", ["counted", "uncounted"])
def test_shards_rewritten_before_their_release_keep_what_was_written(rewrite):
    layer, _ = fused(GATE_UP, (0, 1))
    mps_dequant.gguf_dequant_matmul(rows(), layer)
    written = layer.qweight if rewrite == "counted" else layer.qweight.data
    with torch.no_grad():
        written.copy_(written.flip(0).clone())
    bridges.release(layer)
    x = rows()
    found = mps_dequant.gguf_dequant_matmul(x, layer)
    assert_product(found, x, fused(GATE_UP, (0, 1))[1].flip(1))
    bridges.release(layer)
    assert layer.qweight.shape == (0,)
    bridges.invalidate(layer)
    assert_bits(mps_dequant.gguf_dequant_matmul(x, layer), found)


@pytest.mark.parametrize("whole_layer", [True, False], ids=["the layer", "the tensor"])
def test_a_write_into_shards_between_sampled_values_needs_invalidate(whole_layer):
    layer, _ = fused(GATE_UP, (0, 1))
    before = mps_dequant.gguf_dequant_matmul(rows(), layer)
    layer.qweight.data[5, 10:14] ^= 0x55
    assert_bits(mps_dequant.gguf_dequant_matmul(rows(), layer), before)
    bridges.invalidate(layer if whole_layer else layer.qweight)
    assert (mps_dequant.gguf_dequant_matmul(rows(), layer) != before).any(0).tolist() == [at == 5 for at in range(64)]


def test_a_dropped_layer_of_shards_is_freed():
    layer, _ = fused(QKV, "qkv")
    WEIGHTS.clear()
    mps_dequant.gguf_dequant_matmul(rows(), layer)
    parameter = weakref.ref(layer.qweight)
    del layer
    assert parameter() is None
    assert len(WEIGHTS) == 0


def test_a_released_weight_outlives_others_in_a_full_cache(monkeypatch):
    layer, config = awq_layer()
    x = rows()
    expected = mps_dequant.awq_dequant_matmul(x, layer, None, config)
    bridges.release(layer)
    monkeypatch.setattr(WEIGHTS, "limit", 1)
    others = [awq_layer(seed=seed)[0] for seed in (1, 2)]
    for other in others:
        mps_dequant.awq_dequant_matmul(x, other, None, config)
    assert_bits(mps_dequant.awq_dequant_matmul(x, layer, None, config), expected)
