"""Torch modules with packed weights: their tensors, their types, gradients, and adapters on top."""

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

import mlx.core as mx  # noqa: E402
from bridge_support import assert_bits, assert_product  # noqa: E402

import mlx_dequant as mxd  # noqa: E402
from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges.nn import (  # noqa: E402
    AWQLinear,
    CompressedTensorsLinear,
    GGUFEmbedding,
    GGUFLinear,
    GPTQLinear,
    packed_linear,
)
from mlx_dequant.bridges.torch import to_torch  # noqa: E402
from mlx_dequant.diagnostics import sample_weights  # noqa: E402

INPUTS, OUTPUTS = 256, 64
# A format, how its weight is made, and the class with its settings.
KINDS = {
    "awq": ("awq4", {"group_size": 64}, AWQLinear, {"group_size": 64}),
    "awq, one group": ("awq4", {"group_size": -1}, AWQLinear, {"group_size": -1}),
    "gptq 3 bits": ("gptq3", {"group_size": 64}, GPTQLinear, {"group_size": 64, "bits": 3}),
    "gptq act-order": ("gptq4", {"group_size": 64, "g_idx": "shuffled"}, GPTQLinear, {"group_size": 64}),
    "ct": ("ct4", {"group_size": 64}, CompressedTensorsLinear, {"group_size": 64, "symmetric": False}),
    "gguf": ("q4_k", {}, GGUFLinear, {"quant_type": "q4_k"}),
}


def made(kind):
    name, options, *_ = KINDS[kind]
    return sample_weights.layer(name, OUTPUTS, INPUTS, **options)


def exact(weight):
    """[in, out] in double."""
    dense = to_torch(weight.dequantize(mx.float32), "cpu").double()
    return dense if weight.matrix.layout == "KN" else dense.T


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_a_weight_and_one_that_loads_its_tensors(kind):
    *_, type_, settings = KINDS[kind]
    weight = made(kind)
    layer = packed_linear(weight, "cpu")
    assert type(layer) is type_
    x, bias = rows(3, INPUTS), rows(OUTPUTS)
    assert_product(layer(x), x, exact(weight))
    assert_bits(layer.dequantize(torch.float32), exact(weight).T.float())
    loaded = type_(INPUTS, OUTPUTS, bias=True, **settings)
    loaded.load_state_dict({**layer.state_dict(), "bias": bias})
    assert_product(loaded(x.half()).detach(), x.half(), exact(weight), bias.half())
    # A matrix in memory of its own, saved and copied as any module.
    for other in (copy.deepcopy(loaded), again(loaded)):
        assert_bits(other(x), loaded(x))


def again(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_packed_tensors_stay(kind):
    layer = packed_linear(made(kind), "cpu")
    layer.bias = torch.nn.Parameter(rows(OUTPUTS))
    before, y = {name: tensor.dtype for name, tensor in layer.named_buffers()}, layer(rows(3, INPUTS))
    layer.bfloat16()
    assert layer.bias.dtype == torch.bfloat16
    layer.float().requires_grad_()
    assert {name: tensor.dtype for name, tensor in layer.named_buffers()} == before
    torch.testing.assert_close(layer(rows(3, INPUTS)), y, rtol=0, atol=0.02)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert {tensor.device.type for tensor in layer.to("meta").state_dict().values()} == {"meta"}


def test_a_write_into_a_layer_counts():
    layer = packed_linear(made("awq"), "cpu")
    x = rows(3, INPUTS)
    first = layer(x)
    layer.scales *= 2
    assert_bits(layer(x), first * 2)
    layer.scales.data.mul_(0.5)
    assert_bits(layer(x), first)


def test_an_embedding_and_the_head_that_is_tied_to_it():
    weight = made("gguf")
    table = GGUFEmbedding(OUTPUTS, INPUTS, "Q4_K", torch.float32)
    table.load_state_dict(packed_linear(weight, "cpu").state_dict())
    ids = torch.tensor([[0, 5], [63, 5]])
    assert_bits(table(ids), exact(weight).T.float()[ids])
    scaled = GGUFEmbedding(OUTPUTS, INPUTS, 12, torch.bfloat16, scale=16.0)
    scaled.load_state_dict(table.state_dict())
    assert_bits(scaled(ids), exact(weight).T.bfloat16()[ids] * 16)
    head = table.as_linear()
    assert head.weight is table.weight
    assert_product(head(rows(2, INPUTS)), rows(2, INPUTS), exact(weight))


def test_wrong_settings_are_named():
    with pytest.raises(FormatError, match="quant_type: found 'q9', expected one of"):
        GGUFLinear(256, 64, quant_type="q9")
    with pytest.raises(FormatError, match=r"in_features: found 100, expected a multiple of 256 \(Q4_K\)"):
        GGUFLinear(100, 64)
    with pytest.raises(FormatError, match=r"weight: found shape \(2, 1, 256\), expected a matrix"):
        packed_linear(mxd.GGUFWeight(mx.zeros((2, 1, 144), mx.uint8), "q4_k"))
    with pytest.raises(FormatError, match="x: found shape"):
        GGUFLinear(256, 64).to("meta")(torch.ones(1, 255, device="meta"))


OF_GROUPS = (AWQLinear, GPTQLinear, CompressedTensorsLinear)
# What no layer of a class can be made with, and the error.
UNFIT = [
    *((type_, {"group_size": 0}, "group_size: found 0, expected a positive integer or -1") for type_ in OF_GROUPS),
    *((type_, {"group_size": -2}, "group_size: found -2, expected a positive integer") for type_ in OF_GROUPS),
    *((type_, {"group_size": 64.0}, r"group_size: found 64\.0, expected an integer") for type_ in OF_GROUPS),
    (AWQLinear, {"out_features": 60}, r"out_features: found 60, expected a multiple of 8 \(codes of 4 bits\)"),
    (GPTQLinear, {"out_features": 60}, r"out_features: found 60, expected a multiple of 8 \(codes of 4 bits\)"),
    (GPTQLinear, {"in_features": 100}, r"in_features: found 100, expected a multiple of 8 \(codes of 4 bits\)"),
    (GPTQLinear, {"bits": 3, "in_features": 72}, "in_features: found 72, expected a multiple of 32"),
    (GPTQLinear, {"bits": 5}, "bits: found 5, expected one of 2, 3, 4, 8"),
    (CompressedTensorsLinear, {"bits": 5}, "bits: found 5, expected one of 2, 3, 4, 8"),
    (GPTQLinear, {"zero_points": "v3"}, "zero_points: found 'v3', expected one of 'v1', 'v1-field', 'v2'"),
]


@pytest.mark.parametrize("type_, settings, message", UNFIT)
def test_a_layer_that_could_not_multiply_is_not_made(type_, settings, message):
    with pytest.raises(FormatError, match=message):
        type_(**{"in_features": 128, "out_features": 64, **settings})


@pytest.mark.parametrize("type_, inputs, outputs", [(AWQLinear, 100, 64), (CompressedTensorsLinear, 100, 60)])
def test_codes_that_fill_no_whole_words_where_a_class_has_them(type_, inputs, outputs):
    assert type_(inputs, outputs)(rows(2, inputs)).shape == (2, outputs)


class LoRA(torch.nn.Module):
    """A layer with a low-rank adapter."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = torch.nn.Parameter(rows(layer.in_features, 4) / 16)
        self.up = torch.nn.Parameter(torch.zeros(4, layer.out_features))

    def forward(self, x):
        return self.layer(x) + x @ self.down @ self.up


def two_layers():
    """A network of two packed layers, and the same with dense ones."""
    torch.manual_seed(0)
    packed = [packed_linear(sample_weights.layer("gptq4", 64, 256, group_size=64, g_idx="shuffled"), "cpu")]
    packed.append(packed_linear(sample_weights.layer("q4_k", 32, 256), "cpu"))
    packed.insert(1, torch.nn.Linear(64, 256))
    dense = []
    for layer in packed:
        copied = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        with torch.no_grad():
            copied.weight.copy_(layer.weight if type(layer) is torch.nn.Linear else layer.dequantize(torch.float32))
            if layer.bias is not None:
                copied.bias.copy_(layer.bias)
        dense.append(copied)
    return packed, dense


def trained(model, parameters, steps=12):
    """The losses of some steps, and the first gradients."""
    x, wanted = rows(16, 256), rows(16, 32)
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    losses, first = [], None
    for _ in range(steps):
        optimizer.zero_grad()
        y = model(x)
        loss = (y / y.detach().std() - wanted).square().mean()
        loss.backward()
        first = first or [parameter.grad.clone() for parameter in parameters]
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses), first


def compared(networks):
    """Trains both and compares. The adapters below packed layers get the dense ones' gradients."""
    (ours, gradients), (theirs, expected) = (
        trained(network, [p for p in network.parameters() if p.requires_grad]) for network in networks
    )
    assert theirs[-1] < 0.95 * theirs[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert len(gradients) == len(expected) >= 4
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-12)


def test_a_lora_of_packed_layers_trains_as_on_dense_ones():
    networks = []
    for first, middle, last in two_layers():
        network = torch.nn.Sequential(LoRA(first), torch.nn.Tanh(), middle, LoRA(last))
        for module in (first, middle, last):
            module.requires_grad_(False)
        networks.append(network)
    compared(networks)


def test_a_lora_of_peft():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    networks = []
    for layers in two_layers():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["0", "3"], init_lora_weights=True)
        first, middle, last = layers
        networks.append(peft.get_peft_model(torch.nn.Sequential(first, torch.nn.Tanh(), middle, last), config))
    compared(networks)
