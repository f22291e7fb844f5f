"""The bridge as operators of torch: autograd, vmap, autocast, compile, export, fake and meta tensors."""

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

import numpy as np  # noqa: E402
from bridge_support import assert_bits, assert_product, awq_layer, gptq_layer  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges import mps_dequant, packed  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.operators import FAMILIES, OPERATIONS, operator  # noqa: E402
from mlx_dequant.bridges.torch import to_mlx, to_torch  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

INPUTS, OUTPUTS, GROUP = 256, 64, 64
PRODUCTS = ("linear", "linear_transposed")


def arguments(family):
    """A small weight of a family, as its operators take it."""
    if family == "awq":
        layer, _ = awq_layer(INPUTS, OUTPUTS, GROUP)
        return layer.qweight, layer.scales, layer.qzeros, GROUP
    if family == "gptq":
        layer, _ = gptq_layer(INPUTS, OUTPUTS, GROUP, act_order=True)
        return layer.qweight, layer.scales, layer.qzeros, layer.g_idx, GROUP, "v1", 4
    if family == "gguf":
        weight = sample_weights.layer("q4_k", OUTPUTS, INPUTS)
        return to_torch(weight.arrays["blocks"], "cpu"), 12, OUTPUTS, INPUTS
    arrays = sample_weights.layer("ct4", OUTPUTS, INPUTS, group_size=GROUP).arrays
    tensors = [None if arrays[name] is None else to_torch(arrays[name], "cpu") for name in ("codes", "scales", "zeros")]
    return *tensors, None, OUTPUTS, INPUTS, GROUP, 4


def matrix(family, weight):
    """[in, out] in double, exact."""
    dense = operator(family, "dequantize")(*weight, torch.float32).double()
    return dense if FAMILIES[family].layout == "KN" else dense.T


def call(family, operation, first=None, last=None, weight=None):
    kind = OPERATIONS[operation]
    weight = arguments(family) if weight is None else weight
    return operator(family, operation)(*[first] * bool(kind.first), *weight, *[last] * bool(kind.last))


def rows(length, *leading, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*(leading or (3,)), length, generator=generator).to(dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_and_their_gradients_are_those_of_the_dense_matrix(family):
    weight = arguments(family)
    dense = matrix(family, weight)
    x, bias = rows(INPUTS).requires_grad_(), rows(OUTPUTS, 1)[0].requires_grad_()
    y = call(family, "linear", x, bias, weight)
    assert_product(y.detach(), x.detach(), dense, bias.detach())
    seed = rows(OUTPUTS)
    (gradient, of_bias) = torch.autograd.grad(y, (x, bias), seed)
    assert_product(gradient, seed, dense.T)
    assert torch.equal(of_bias, seed.sum(0))
    assert_product(call(family, "linear_transposed", seed, weight=weight), seed, dense.T)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gradient_of_a_gradient_and_a_tangent(family):
    weight = arguments(family)
    dense = matrix(family, weight).float()
    x = rows(INPUTS).requires_grad_()
    (once,) = torch.autograd.grad(call(family, "linear", x, None, weight).square().sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x)
    expected = 2 * (torch.ones_like(x) @ dense) @ dense.T
    torch.testing.assert_close(twice, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), rows(INPUTS) * 2)
        tangent = forward_ad.unpack_dual(call(family, "linear", dual, None, weight)).tangent
    assert_product(tangent, rows(INPUTS) * 2, dense.double())


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_finds_nothing_wrong(family, operation):
    first = {
        "linear": rows(INPUTS).requires_grad_(),
        "linear_transposed": rows(OUTPUTS).requires_grad_(),
        "embedding": torch.tensor([[1, 5], [0, 2]]),
        "dequantize": None,
    }[operation]
    kind = OPERATIONS[operation]
    given = (*[first] * bool(kind.first), *arguments(family), *[None] * bool(kind.last))
    result = torch.library.opcheck(operator(family, operation), given)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_an_embedding_are_those_of_the_matrix(family):
    weight = arguments(family)
    ids = torch.tensor([[0, 3], [OUTPUTS - 1, 3]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        dense = operator(family, "dequantize")(*weight, dtype)
        found = call(family, "embedding", ids, dtype, weight)
        assert_bits(found, (dense.T if FAMILIES[family].layout == "KN" else dense)[ids])


@pytest.mark.parametrize("operation", PRODUCTS)
def test_a_weight_that_asks_for_a_gradient_is_told_that_it_is_frozen(operation):
    qweight, scales, *rest = arguments("awq")
    x = rows(INPUTS if operation == "linear" else OUTPUTS)
    y = call("awq", operation, x, None, (qweight, scales.requires_grad_(), *rest))
    with pytest.raises(FormatError, match="scales: found requires_grad=True, expected False"):
        y.sum().backward()


@pytest.mark.parametrize("others", ["none", "x", "bias"])
def test_a_weights_tangent_is_refused_not_dropped(others):
    qweight, scales, *rest = arguments("awq")
    x, bias = rows(INPUTS), rows(OUTPUTS, 1)[0]
    with forward_ad.dual_level(), pytest.raises(FormatError, match="scales: found a tangent, expected none"):
        x = forward_ad.make_dual(x, x) if others == "x" else x
        bias = forward_ad.make_dual(bias, bias) if others == "bias" else bias
        call("awq", "linear", x, bias, (qweight, forward_ad.make_dual(scales, scales), *rest))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_tangent_of_bias_alone(dtype):
    x, bias = rows(INPUTS, dtype=dtype), rows(OUTPUTS, 1)[0]
    with forward_ad.dual_level():
        y = call("awq", "linear", x, forward_ad.make_dual(bias, 2 * bias))
        assert_bits(forward_ad.unpack_dual(y).tangent, (2 * bias).to(dtype).expand(3, OUTPUTS))


def test_no_gradient_flows_back():
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y, other):
            return y + other

        @staticmethod
        def backward(ctx, gradient):
            return None, gradient

    x, other = rows(INPUTS).requires_grad_(), rows(OUTPUTS).requires_grad_()
    Cut.apply(call("awq", "linear", x), other).sum().backward()
    assert x.grad is None and other.grad is not None


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_vmap(family, axis):
    weight, x = arguments(family), rows(INPUTS, 2, 3)
    mapped = torch.vmap(lambda x: call(family, "linear", x, None, weight), in_dims=axis)(x)
    assert_product(mapped, x.movedim(axis, 0), matrix(family, weight))


def test_vmap_over_weights_takes_them_one_by_one():
    qweight, scales, qzeros, size = arguments("awq")
    stacked = torch.stack([qweight, qweight.flip(0)])
    x = rows(INPUTS)
    run = torch.vmap(lambda w: operator("awq", "linear")(x, w, scales, qzeros, size, None))
    for found, one in zip(run(stacked), stacked, strict=True):
        assert_bits(found, operator("awq", "linear")(x, one, scales, qzeros, size, None))


@pytest.mark.parametrize("family", FAMILIES)
def test_vmap_over_nothing_gives_nothing(family):
    weight = arguments(family)
    run = torch.vmap(lambda x, bias: call(family, "linear", x, bias, weight), in_dims=(1, 0))
    assert run(torch.ones(3, 0, INPUTS), torch.ones(0, OUTPUTS)).shape == (0, 3, OUTPUTS)
    of_weights = torch.vmap(lambda codes: call(family, "dequantize", weight=(codes, *weight[1:])))
    expected = call(family, "dequantize", weight=weight).shape
    assert of_weights(weight[0][None][:0]).shape == (0, *expected)


def test_autocast_lowers_x_and_bias_as_for_a_linear_layer():
    weight, x, bias = arguments("awq"), rows(INPUTS), rows(OUTPUTS, 1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = call("awq", "linear", x, bias, weight)
        again = call("awq", "linear", x, bias, weight)
        rows_of_float16 = call("awq", "embedding", torch.tensor([1]), None, weight)
    assert_bits(found, call("awq", "linear", x.bfloat16(), bias.bfloat16(), weight))
    assert_bits(again, found)
    assert rows_of_float16.dtype == torch.float16


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_functorch_is_refused_not_answered_with_zeros(transform):
    weight, x = arguments("awq"), rows(INPUTS)

    def loss(x):
        return call("awq", "linear", x, None, weight).sum()

    with pytest.raises(NotImplementedError):
        torch.func.grad(loss)(x) if transform == "grad" else torch.func.jvp(loss, (x,), (x,))


class Layer(torch.nn.Module):
    """A GPTQ layer over vLLM's function."""

    def __init__(self):
        super().__init__()
        layer, self.config = gptq_layer(act_order=True)
        for name, tensor in vars(layer).items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return torch.relu(mps_dequant.gptq_dequant_matmul(x * 2, self, None, self.config))


def test_one_graph_in_torch_compile_and_weights_cross_once():
    layer, x = Layer(), rows(INPUTS)
    expected = layer(x)
    WEIGHTS.clear()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_bits(compiled(x), expected)
    entries = list(WEIGHTS._entries.values())
    assert_bits(compiled(x), expected)
    assert list(WEIGHTS._entries.values()) == entries
    x.requires_grad_()
    (plain,) = torch.autograd.grad(layer(x).sum(), x)
    (found,) = torch.autograd.grad(compiled(x).sum(), x)
    assert_bits(found, plain)


def unpacking(name):
    """A function that dequantizes codes, and the codes."""
    if name == "gguf":
        blocks, *numbers = arguments("gguf")
        return lambda blocks: mps_dequant.gguf_dequant_on_mps(blocks, *numbers), blocks
    if name == "awq":
        qweight, *rest = arguments("awq")
        return lambda qweight: mps_dequant._pytorch_dequant_awq(qweight, *rest), qweight
    qweight, *rest = arguments("gptq")[:5]
    return lambda qweight: mps_dequant._pytorch_dequant_gptq(qweight, *rest), qweight


@pytest.mark.parametrize("name", ["awq", "gptq", "gguf"])
def test_functions_that_dequantize_work_in_torch_compile_and_vmap(name):
    dequantize, codes = unpacking(name)
    expected = dequantize(codes)
    compiled = torch.compile(lambda codes: dequantize(codes) + 1, fullgraph=True, backend="aot_eager")
    assert_bits(compiled(codes), expected + 1)
    assert_bits(torch.vmap(dequantize)(torch.stack([codes, codes]))[1], expected)


def test_tensors_cross_and_come_back_in_torch_compile():
    x = rows(INPUTS)
    run = torch.compile(lambda x: to_torch(to_mlx(x) * 2, "cpu") + 1, backend="aot_eager")
    assert_bits(run(x), x * 2 + 1)


def test_export_keeps_the_operator():
    layer, x = Layer(), rows(INPUTS)
    program = torch.export.export(layer, (x,))
    assert "gptq_linear" in program.graph_module.code
    assert_bits(program.module()(x), layer(x))


def test_fake_and_meta_tensors_get_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer, x = Layer(), rows(INPUTS)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == (3, OUTPUTS)
    assert Layer().to("meta")(x.to("meta")).shape == (3, OUTPUTS)
    with pytest.raises(FormatError, match=r"x: found shape .*expected a last axis of 256"):
        Layer().to("meta")(torch.ones(3, 255, device="meta"))


class Wrapper(torch.Tensor):
    """A tensor that holds another one and has no memory, as DTensor and MaskedTensor are."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return NotImplemented


def fake(tensor):
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(tensor)


def freed(tensor):
    whole = tensor.repeat(2, *[1] * (tensor.ndim - 1))
    part = whole[len(tensor) :]  # at an offset, so that its address is not zero
    whole.untyped_storage().resize_(0)
    return part


def zeros_never_made(tensor):
    return torch._efficientzerotensor(*tensor.shape, dtype=tensor.dtype)


@pytest.mark.parametrize("without", [fake, freed, Wrapper, zeros_never_made])
def test_what_has_no_values_does_not_cross(without):
    with pytest.raises(FormatError, match=r"tensor: found .* without memory"):
        to_mlx(without(torch.ones(3)))
    layer, _ = awq_layer()
    with pytest.raises(FormatError, match=r"scales: found .* without memory"):
        packed.awq(layer.qweight, without(layer.scales), layer.qzeros, 64)


def test_vmaps_tensors_do_not_cross_and_empty_ones_do():
    with pytest.raises(FormatError, match="without memory"):
        torch.vmap(lambda x: to_torch(to_mlx(x), "cpu"))(torch.ones(3))
    assert np.asarray(to_mlx(torch.ones(0))).shape == (0,)
