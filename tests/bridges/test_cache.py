"""Weights cross once, stay packed, follow their tensors, and leave with them."""

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_bits, awq_layer, awq_plain, gptq_layer  # noqa: E402

from mlx_dequant import bridges  # noqa: E402
from mlx_dequant.bridges import mps_dequant, packed  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS, WeightCache  # noqa: E402


@pytest.fixture(autouse=True)
def empty():
    WEIGHTS.clear()
    yield
    WEIGHTS.clear()


@pytest.fixture
def made(monkeypatch):
    """Every weight made during the test."""
    weights = []

    def counted(kind, *args, **options):
        weights.append(kind.__name__)
        return kind(*args, **options)

    for name in ("AWQWeight", "GPTQWeight", "GGUFWeight"):
        monkeypatch.setattr(packed, name, partial(counted, getattr(packed, name)))
    return weights


def unpacked(layer):
    return mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)


def plain(layer):
    return awq_plain(layer.qweight, layer.scales, layer.qzeros, 64)


def test_a_layer_crosses_once_for_products_and_unpacking(made):
    layer, config = awq_layer()
    x = torch.ones(1, 256).half()
    for _ in range(3):
        mps_dequant.awq_dequant_matmul(x, layer, None, config)
        unpacked(layer)
    assert made == ["AWQWeight"]


def test_gptq_and_gguf_cross_once(made):
    layer, config = gptq_layer()
    blocks = torch.zeros(4, 34, dtype=torch.uint8)
    for _ in range(2):
        mps_dequant.gptq_dequant_matmul(torch.ones(1, 256).half(), layer, None, config)
        mps_dequant.gguf_dequant_on_mps(blocks, 8, 4, 32)
    assert made == ["GPTQWeight", "GGUFWeight"]


def test_what_a_weight_depends_on_besides_tensors_is_part_of_its_key(made):
    layer, config = gptq_layer()
    x = torch.ones(1, 256).half()
    v1 = mps_dequant.gptq_dequant_matmul(x, layer, None, config, False)
    v2 = mps_dequant.gptq_dequant_matmul(x, layer, None, config, True)
    assert not torch.equal(v1, v2)
    assert torch.equal(mps_dequant.gptq_dequant_matmul(x, layer, None, config, False), v1)
    assert len(made) == 2


CHANGES = {
    "replaced": lambda layer: setattr(layer, "scales", layer.scales * 2),
    "written in place": lambda layer: layer.scales.mul_(2),
    "written through a view": lambda layer: layer.qweight[3:5].zero_(),
    "given other memory": lambda layer: setattr(layer.qweight, "data", layer.qweight + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change):
    layer, _ = awq_layer()
    assert_bits(unpacked(layer), plain(layer))
    CHANGES[change](layer)
    assert_bits(unpacked(layer), plain(layer))
    assert len(WEIGHTS) == 1


UNCOUNTED = {
    "data": lambda layer: layer.scales.data.mul_(2),
    "numpy": lambda layer: np.multiply(layer.scales.numpy(), 2, out=layer.scales.numpy()),
    "one of four rows": lambda layer: layer.qweight.data[64:128].zero_(),
    "another tensor of the storage": lambda layer: torch.tensor([]).int().set_(layer.qweight).add_(1),
    "a column of a strided tensor": lambda layer: layer.qzeros.data[:, :4].bitwise_not_(),
}


@pytest.mark.parametrize("write", UNCOUNTED)
def test_writes_that_torch_does_not_count_are_seen(write):
    layer, _ = awq_layer()
    layer.qzeros = torch.stack([layer.qzeros, layer.qzeros], -1)[..., 0]
    unpacked(layer)
    versions = [tensor._version for tensor in vars(layer).values()]
    UNCOUNTED[write](layer)
    assert [tensor._version for tensor in vars(layer).values()] == versions
    assert_bits(unpacked(layer), plain(layer))


def test_writes_into_inference_tensors_are_seen():
    layer, _ = awq_layer()
    with torch.inference_mode():
        layer.scales = layer.scales.clone()
        unpacked(layer)
        layer.scales.mul_(2)
        assert_bits(unpacked(layer), plain(layer))


@pytest.mark.parametrize("whole_layer", [True, False], ids=["the layer", "the tensor"])
def test_a_write_between_sampled_values_needs_invalidate(whole_layer):
    layer, _ = awq_layer()
    before = unpacked(layer)
    layer.qweight.data[0, 1] += 1  # of 2048 values, 64 are sampled
    assert_bits(unpacked(layer), before)
    bridges.invalidate(layer if whole_layer else layer.qweight)
    assert_bits(unpacked(layer), plain(layer))


def test_weights_are_freed_with_any_of_their_tensors():
    layer, config = gptq_layer(act_order=True)
    mps_dequant.gptq_dequant_matmul(torch.ones(1, 256).half(), layer, None, config)
    assert len(WEIGHTS) == 1
    assert WEIGHTS.nbytes > 0
    layer.g_idx = None
    gc.collect()
    assert (len(WEIGHTS), WEIGHTS.nbytes) == (0, 0)


class Awkward:
    """Neither hashable nor weakly referenceable."""

    __slots__ = ("g_idx", "qweight", "qzeros", "scales")
    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("a layer was compared")


def test_a_layer_may_be_any_object(made):
    layer, config = awq_layer()
    awkward = Awkward()
    for name, tensor in vars(layer).items():
        setattr(awkward, name, tensor)
    module = torch.nn.Module()
    for name, tensor in vars(layer).items():
        setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))
    for one in (awkward, module):
        for _ in range(2):
            mps_dequant.awq_dequant_matmul(torch.ones(1, 256).half(), one, None, config)
    assert len(made) == 2
    bridges.invalidate(awkward)
    bridges.invalidate(module)
    assert len(WEIGHTS) == 0


def test_the_cache_is_bounded_and_forgets_the_longest_unused(monkeypatch, made):
    monkeypatch.setattr(packed, "WEIGHTS", small := WeightCache(limit=3))
    layers = [awq_layer(seed=seed)[0] for seed in range(4)]
    for at in (0, 1, 2, 0, 3):
        unpacked(layers[at])
    assert (len(small), len(made)) == (3, 4)
    unpacked(layers[0])
    assert len(made) == 4
    unpacked(layers[1])
    assert len(made) == 5


def test_failed_weights_are_not_kept():
    layer, _ = awq_layer()
    with pytest.raises(ValueError, match="scales"):
        mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 32)
    assert len(WEIGHTS) == 0


def test_threads_make_a_weight_once_and_see_changes(made):
    layer, _ = awq_layer(1024, 512)
    expected = plain(layer)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: torch.equal(unpacked(layer), expected), range(64)))
    assert len(made) == 1
    shown = [plain(awq_layer(seed=seed)[0]) for seed in range(5)]

    def one(seed):
        # Tensors come and go in every thread at once.
        return torch.equal(unpacked(awq_layer(seed=seed)[0]), shown[seed])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, [seed % 5 for seed in range(100)]))
    gc.collect()
    assert len(WEIGHTS) == 1


def test_no_dense_copy_is_kept():
    layer, config = awq_layer(2048, 2048, 128)
    x = torch.ones(1, 2048).half()
    packed_bytes = sum(tensor.nbytes for tensor in vars(layer).values())
    dense_bytes = 2048 * 2048 * 2
    mps_dequant.awq_dequant_matmul(x, layer, None, config)
    WEIGHTS.clear()
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    for _ in range(3):
        mps_dequant.awq_dequant_matmul(x, layer, None, config)
        mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 128)
    gc.collect()
    kept = mx.get_active_memory() - before
    assert packed_bytes <= kept < packed_bytes + dense_bytes / 8
    assert WEIGHTS.nbytes == packed_bytes
    (entry,) = WEIGHTS._entries.values()
    assert sum(array.nbytes for array in arrays_in(entry.weight.matrix.cache)) <= 2 * packed_bytes


def arrays_in(value):
    """Every array below `value`, MLX's and NumPy's."""
    if hasattr(value, "nbytes"):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from arrays_in(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from arrays_in(one)
