"""Stacks past 2^31 and 2^32 bytes: the right expert is found behind them. Memory that was never written is none."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from devices import generation
from emulated_kernels import needs_compiler
from emulator import cuda_device, device, launch
from expert_cases import EXPERTS, check_experts, check_pairs, chosen, experts
from gguf_bytes import gguf_bytes
from product_cases import FAMILIES, SIZES, exact, numbers, wide
from sparse_weights import sparse

import mlx_dequant as mxd
from mlx_dequant import launches
from mlx_dequant.backends.gpu import launch as gpu
from mlx_dequant.backends.gpu.act_order import sort_by_group
from mlx_dequant.diagnostics import sample_weights

pytestmark = [pytest.mark.full, needs_compiler]

APART = 1 << 30  # bytes from an expert to the next: the last one's offset is 2^32
FEW, MANY = np.array([[-1, 0], [2, 4]], np.int32), chosen("from the end", 18, 1)  # both with the last expert
OUT, IN = 2048, 4096


@pytest.fixture
def far_apart(monkeypatch):
    """Puts the experts of a stack a GiB from each other, in the arrays that the emulator hands to kernels."""

    def put(packed):
        large = {}
        matrix = sort_by_group(packed.matrix) or packed.matrix  # what products read
        for array in gpu.device_arrays(matrix):
            small = device.numpy_of(array)
            large[id(array)] = sparse((EXPERTS, APART // small.itemsize), small.dtype)
            if small.size > 8:  # zeros stand in for an absent array
                own = small.reshape(EXPERTS, -1)
                large[id(array)][:, : own.shape[1]] = own
        ours = {id(one) for one in large.values()}

        def unless_large(function, result=lambda array: array):
            return lambda array: result(array) if id(array) in ours else function(array)

        def numpy_of(array):
            return large[id(array)] if id(array) in large else ordinary(array)

        ordinary = device.numpy_of
        monkeypatch.setattr(launches, "EXPERT_BYTES", APART)
        for module in (device, cuda_device):
            monkeypatch.setattr(module, "numpy_of", numpy_of)
            monkeypatch.setattr(module, "fenced", unless_large(module.fenced))
        monkeypatch.setattr(cuda_device, "_whole_words", unless_large(cuda_device._whole_words))
        monkeypatch.setattr(launch, "_margins", unless_large(launch._margins, lambda array: ()))

    return put


@pytest.mark.parametrize(("platform", "known"), [(emulator.metal, 0), (emulator.cuda, 80)])
@pytest.mark.parametrize(("ids", "dtype"), [(FEW, mx.float32), (MANY, mx.float16)], ids=["few", "many"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_kernel_finds_a_far_expert(name, ids, dtype, platform, known, far_apart):
    """One row a pair, and tiles of sorted pairs; both ways."""
    with generation(known), platform():
        far_apart(experts(name, SIZES[1])[0])
        check_experts(name, dtype, ids, SIZES[1])


@pytest.mark.usefixtures("host")
def test_a_gguf_stack_on_the_host(tmp_path):
    """Of 2.3 GB, read from a file of which only the last expert was written."""
    count, row = (1 << 31) // (OUT * IN // 32 * 34) + 2, IN // 32 * 34
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (OUT, IN // 32, 34), np.uint8)
    blocks[..., :2] = rng.normal(size=(OUT, IN // 32, 1)).astype(np.float16).view(np.uint8)
    head = gguf_bytes({"stack": (8, (count, OUT, IN), b"")})
    with (tmp_path / "model.gguf").open("wb") as file:
        file.write(head)
        file.seek(len(head) + (count - 1) * OUT * row)
        file.write(blocks.tobytes())
    packed = mxd.load(tmp_path / "model.gguf").weights["stack"]
    assert packed.shape == (count, OUT, IN) and (count - 1) * OUT * row > 1 << 31
    check_the_last(packed, exact(mxd.GGUFWeight(blocks.reshape(OUT, -1), "Q8_0")))


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("name", ["awq4", "ct8"])
def test_a_stack_of_equal_weights_on_the_host(name):
    """The last expert of one whose codes alone take more than 2^31 bytes."""
    rng = np.random.default_rng(1)
    zero, last = (sample_weights.groups(name, rng, IN, OUT, 128, plain=True) for _ in range(2))
    zero = zero.replace(scales=mx.zeros_like(zero.arrays["scales"]))
    size = max(array.nbytes for array in zero.arrays.values() if array is not None)
    packed = mxd.stack([zero] * ((1 << 31) // size + 1) + [last])
    assert max(array.nbytes for array in packed.arrays.values() if array is not None) > 1 << 31
    check_the_last(packed, exact(last))


def check_the_last(packed, dense):
    """The last expert, named from both ends, gives the right values, and those before it zeros."""
    last = packed.experts - 1
    x = numbers(np.random.default_rng(2), (3, IN), mx.float32)
    ids = np.array([[last, 0], [last - 1, -1], [-1, last]], np.int32)
    found = packed.gather_linear(x, mx.array(ids))
    is_last = ids % packed.experts == last
    assert not np.array(found)[~is_last].any()
    rows = np.broadcast_to(wide(x)[:, None], (3, 2, IN))[is_last]
    ours = mx.array(np.array(found)[is_last])
    check_pairs(ours[:, None], rows[:, None], np.zeros((4, 1), int), dense.T[None], mx.float32, "the last")
    cotangent = mx.ones((1, 1, OUT))
    gradient = mx.vjp(lambda x: packed.gather_linear(x, mx.array([[last]])), [x[:1]], [cotangent])[1][0]
    assert np.allclose(np.array(gradient)[0], dense.sum(axis=0), rtol=0, atol=1e-4 * np.abs(dense).sum(axis=0).max())
