"""Every format by torch's own launches, in the emulator: the bits of weights, products within their bound."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the shaders run on torch's tensors")

from devices import tuned  # noqa: E402
from emulator.shader_library import torch_shaders  # noqa: E402
from product_cases import UNSORTED, by_traits, exact, weight  # noqa: E402
from specs import every_spec  # noqa: E402

from mlx_dequant import formats  # noqa: E402
from mlx_dequant.backends.host.compiler import compiler  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.nn import packed_linear  # noqa: E402
from mlx_dequant.bridges.operators import operator  # noqa: E402
from mlx_dequant.bridges.shaders import launch  # noqa: E402
from mlx_dequant.diagnostics import bounds, compare, sample_weights  # noqa: E402
from mlx_dequant.tuning import EXACT_ROWS  # noqa: E402

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")

TYPES = (torch.float16, torch.bfloat16, torch.float32)
ROWS = (1, 2, 3, 5, 12, 17, 64, 400)
# Every format with a type: kernels are compiled for each, and the types are no matter of the format.
IN_TURN = [(name, TYPES[at % 3]) for at, name in enumerate(formats())]
# Numbers of the dispatcher's tables with which small matrices take the kernels of large ones.
EACH = {"least_columns": 1}
TABLES = (EACH, {"few_rows": 0}, {"few_rows": 0, "long_rows": 0, **EACH})


def layer(name, **options):
    return packed_linear(weight(name, **options), "cpu")


def close(found, x, dense):
    """`found` is x @ dense within the bound of a product."""
    dtype = getattr(mx, str(x.dtype).removeprefix("torch."))
    bound = bounds.matmul_bound(x.double().numpy(), dense, dtype, len(x) > EXACT_ROWS)
    assert found.dtype == x.dtype
    wrong = compare.within(found.double().numpy(), *bound).wrong
    assert not wrong, f"{wrong} of {found.numel()} with {len(x)} rows of {x.dtype}"


def numbers(rows, columns, dtype):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)


def check_products(one, dense, M, dtype, back=True):
    """x through the layer, and y back through it; `dense` is [in, out]."""
    x, y = numbers(M, len(dense), dtype), numbers(M, dense.shape[1], dtype)
    close(one(x), x, dense)
    if back:
        close(operator(one.family, "linear_transposed")(y, *one.operands()), y, dense.T)


def check_weights(one, dense, dtype):
    """The bits of each weight, whole and by rows; `dense` is [out, in], exact."""
    expected = torch.from_numpy(dense).to(dtype)
    assert torch.equal(one.dequantize(dtype), expected)
    ids = torch.tensor([[len(dense) - 1, 0], [-1, len(dense)]])
    rows = operator(one.family, "embedding")(ids, *one.operands(), dtype)
    assert torch.equal(rows[0], expected[ids[0]])
    assert torch.equal(rows[1, 0], expected[-1])
    assert rows[1, 1].isnan().all()


@pytest.mark.parametrize("name", by_traits(fast=("q4_k", "awq4", "ct3")))
def test_weights(name):
    with torch_shaders():
        one = layer(name)
        dense = exact(weight(name)).astype(np.float32)
        check_weights(one, dense, TYPES[len(name) % 3])


@pytest.mark.full
@pytest.mark.parametrize(("name", "dtype"), IN_TURN)
def test_weights_of_odd_sizes(name, dtype):
    for packed in (sample_weights.for_dequantize(name)[-1], weight(name, (130, 77))):
        with torch_shaders(order="shuffled"):
            check_weights(packed_linear(packed, "cpu"), exact(packed).astype(np.float32), dtype)


@pytest.mark.parametrize(("name", "M", "dtype"), [("q6_k", 1, TYPES[0]), ("gptq4", 3, TYPES[2]), ("ct4", 17, TYPES[1])])
def test_a_product_of_each_kind(name, M, dtype):
    with torch_shaders():
        check_products(layer(name), exact(weight(name)).T, M, dtype, back=False)


def test_many_rows_multiply_a_dequantized_matrix():
    with torch_shaders():
        check_products(layer("awq4"), exact(weight("awq4")).T, 400, torch.float16)


def test_what_cannot_be_sorted_is_dequantized():
    """For any number of rows, both ways, and by no other kernel."""
    packed, described = weight("ct4", UNSORTED), set()
    real = launch.kernel.__wrapped__

    def kernel(form, spec, *types):
        described.add(spec.name)
        return real(form, spec, *types)

    with torch_shaders(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "kernel", kernel)
        for M in (1, 20):
            check_products(packed_linear(packed, "cpu"), exact(packed).T, M, torch.float32)
    assert described == {"dequantize"}


@pytest.mark.full
@pytest.mark.parametrize(("name", "dtype"), IN_TURN)
def test_every_product(name, dtype):
    """Each kernel that Metal's table may choose for matrices, in both directions; one matrix has act-order."""
    described = set()
    real = launch.kernel.__wrapped__

    def kernel(form, spec, *types):
        described.add(spec)
        return real(form, spec, *types)

    with torch_shaders(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "kernel", kernel)
        shuffled = [sample_weights.layer(name, 64, 320, group_size=32, g_idx="shuffled")]
        for packed in (weight(name, (160, 672)), weight(name, (130, 77)), *shuffled):
            dense = exact(packed).T
            for fields in TABLES:
                with tuned(**fields):
                    one = packed_linear(packed, "cpu")
                    for M in ROWS if not fields else (*ROWS[:5], 64):
                        check_products(one, dense, M, dtype)
                    WEIGHTS.clear()
    expected = {"qmv", "qvm", *(("qmm", "pack_activations", "split_k_reduce") if dtype != torch.float32 else ())}
    assert expected <= {spec.name for spec in described}
    few = {spec for spec in every_spec("metal", formats()[name]) if spec.name in ("qmv", "qvm")}
    assert few <= described
