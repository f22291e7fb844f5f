"""Many rows of bfloat16 on a CPU that multiplies them: torch's product of parts that the host dequantizes."""

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_product  # noqa: E402

from mlx_dequant import use_backend  # noqa: E402
from mlx_dequant.backends.host.compiler import compiler  # noqa: E402
from mlx_dequant.bridges import dense_products  # noqa: E402
from mlx_dequant.bridges.nn import packed_linear  # noqa: E402
from mlx_dequant.bridges.operators import operator  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

ROWS = dense_products.ROWS


@pytest.fixture
def products(monkeypatch):
    """On the host, where the CPU is said to multiply bfloat16: the sizes of torch's products, as they come."""
    if compiler() is None:
        pytest.skip("no C++ compiler for the host's loops")
    sizes = []
    real = dense_products.write_region

    def write_region(run, matrix, region, address):
        sizes.append((region.rows, region.columns))
        real(run, matrix, region, address)

    monkeypatch.setattr(dense_products, "write_region", write_region)
    monkeypatch.setattr(dense_products, "has_bfloat16", lambda: True)
    with use_backend("host"):
        yield sizes


def rows(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize(("part", "forward", "back"), [(1 << 22, 1, 1), (160 * 64, 5, 4)], ids=["whole", "in parts"])
@pytest.mark.parametrize("name", ["awq4", "gptq3", "ct4", "q4_k", "f16"])
def test_products_and_gradients_of_each_family(products, monkeypatch, name, part, forward, back):
    monkeypatch.setattr(dense_products, "PART", part)
    g_idx = "shuffled" if name == "gptq3" else ""
    layer = packed_linear(sample_weights.layer(name, 160, 256, group_size=64, g_idx=g_idx), "cpu")
    dense = layer.dequantize(torch.float32).double()
    x, y = rows(2, ROWS, 256).requires_grad_(), rows(2, ROWS, 160)
    found = layer(x)
    assert len(products) == forward
    assert_product(found.detach(), x.detach(), dense.T)
    found.backward(y)
    assert_product(x.grad, y, dense)
    assert len(products) == forward + back


def test_a_bias_is_added_in_the_type_of_x(products):
    layer = packed_linear(sample_weights.layer("awq4", 64, 128), "cpu")
    layer.bias = torch.nn.Parameter(rows(64, dtype=torch.float32))
    x = rows(ROWS, 128)
    with torch.no_grad():
        found = layer(x)
        bias, layer.bias = layer.bias.bfloat16(), None
        assert torch.equal(found, layer(x) + bias)
    assert len(products) == 2


def test_autocast_changes_no_product_of_ours(products):
    layer = packed_linear(sample_weights.layer("q8_0", 64, 128), "cpu")
    y = rows(ROWS, 64)
    transposed = operator("gguf", "linear_transposed")
    expected = transposed(y, *layer.operands())
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(transposed(y, *layer.operands()), expected)
    assert len(products) == 2


@pytest.mark.parametrize(
    "x", [rows(ROWS - 1, 128), rows(ROWS, 128, dtype=torch.float16), rows(ROWS, 128, dtype=torch.float32)], ids=str
)
def test_others_are_multiplied_exactly(products, x):
    layer = packed_linear(sample_weights.layer("awq4", 64, 128), "cpu")
    assert_product(layer(x), x, layer.dequantize(torch.float32).T.double())
    assert not products


def test_it_depends_on_the_cpu_and_the_backend(products, monkeypatch):
    x = rows(ROWS, 128)
    assert dense_products.chosen(x)
    with use_backend("reference"):
        assert not dense_products.chosen(x)
    monkeypatch.setattr(dense_products, "has_bfloat16", lambda: False)
    assert not dense_products.chosen(x)


@pytest.mark.parametrize("feature", ["amx_tile", "avx512_bf16", "avx512_f"])
def test_which_cpus_multiply_bfloat16(monkeypatch, feature):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: feature == "amx_tile")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: feature == "avx512_bf16")
    assert dense_products.has_bfloat16.__wrapped__() == (feature != "avx512_f")


def test_without_a_loop_the_backend_multiplies(products, monkeypatch):
    monkeypatch.setattr(dense_products, "library", lambda *_: None)
    layer = packed_linear(sample_weights.layer("q4_0", 64, 128), "cpu")
    x = rows(ROWS, 128)
    assert_product(layer(x), x, layer.dequantize(torch.float32).T.double())
    assert not products
