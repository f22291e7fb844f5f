"""CUDA tensors cross through pinned host memory."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_bits, assert_product, awq_layer, awq_plain  # noqa: E402

from mlx_dequant.bridges import devices, mps_dequant, staging  # noqa: E402
from mlx_dequant.bridges.torch import to_mlx, to_torch  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("count", [0, 5, staging.WORTH, 5 * staging.CHUNK + 12])
@pytest.mark.parametrize("dtype", devices.DTYPES, ids=str)
def test_round_trip(dtype, count):
    size = torch.empty(0, dtype=dtype).element_size()
    tensor = torch.randint(0, 2, (count // size,), device="cuda").to(dtype)
    array = to_mlx(tensor)
    assert (array.dtype, array.shape) == (devices.DTYPES[dtype], tuple(tensor.shape))
    back = to_torch(array, "cuda")
    assert (back.device, back.dtype) == (tensor.device, dtype)
    assert torch.equal(back, tensor)


def test_strided_views():
    tensor = torch.randn(5000, 4001, device="cuda")[3:, 1::2].T
    assert torch.equal(to_torch(to_mlx(tensor), "cuda"), tensor)
    assert torch.equal(to_torch(to_mlx(tensor).T, "cuda"), tensor.T)


def test_work_queued_on_another_stream_is_waited_for():
    for _ in range(10):
        tensor = torch.zeros(8 << 20, device="cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                tensor.add_(1)
            array = to_mlx(tensor)
        assert bool((array == 20).all())


def test_products_and_unpacking():
    layer, config = awq_layer()
    tensors = layer.qweight, layer.scales, layer.qzeros
    x = torch.randn(3, 256).half()
    there = SimpleNamespace(**{name: tensor.cuda() for name, tensor in vars(layer).items()})
    y = mps_dequant.awq_dequant_matmul(x.cuda(), there, None, config)
    assert y.is_cuda
    assert_product(y.cpu(), x, awq_plain(layer.qweight, layer.scales.double(), layer.qzeros, 64))
    found = mps_dequant._pytorch_dequant_awq(there.qweight, there.scales, there.qzeros, 64)
    assert found.is_cuda
    assert_bits(found.cpu(), awq_plain(*tensors, 64))
