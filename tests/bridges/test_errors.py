"""Wrong inputs: an error that names what is wrong, never a crash or wrong numbers."""

import gc
import random
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import (  # noqa: E402
    assert_product,
    awq_layer,
    awq_plain,
    gptq_layer,
    gptq_plain,
)

from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges import dequant_int4  # noqa: E402
from mlx_dequant.bridges.mps_dequant import (  # noqa: E402
    awq_dequant_matmul,
    gguf_dequant_on_mps,
    gptq_dequant_matmul,
)

ONES = torch.ones(2, 256, dtype=torch.float16)
NESTED = torch.nested.nested_tensor([torch.ones(256), torch.ones(256)], layout=torch.jagged)


def awq(**changes):
    """An AWQ product with some of its parts changed."""
    layer, config = awq_layer()
    x, bias = changes.pop("x", ONES), changes.pop("bias", None)
    for name, value in changes.items():
        setattr(config if hasattr(config, name) else layer, name, value)
    return awq_dequant_matmul(x, layer, bias, config)


def gptq(**changes):
    layer, config = gptq_layer()
    for name, value in changes.items():
        setattr(config if hasattr(config, name) else layer, name, value)
    return gptq_dequant_matmul(ONES, layer, None, config)


def order(**places):
    g_idx = torch.arange(256, dtype=torch.int32) // 64
    for at, group in places.items():
        g_idx[int(at[1:])] = group
    return g_idx


WRONG = [
    (lambda: awq(x=ONES.double()), r"x: found torch\.float64, expected float16"),
    (lambda: awq(x=ONES.int()), r"x: found torch\.int32"),
    (lambda: awq(x=ONES[:, 1:]), r"x: found shape \(2, 255\), expected a last axis of 256"),
    (lambda: awq(x=torch.tensor(1.0)), r"x: found shape \(\)"),
    (lambda: awq(x=[1.0]), r"x: found list, expected a torch\.Tensor"),
    (lambda: awq(x=ONES.to("meta")), "x: found device meta, expected cpu as qweight"),
    (lambda: awq(bias=torch.ones(63).half()), r"bias: found shape \(63,\), expected \(64,\)"),
    (lambda: awq(bias=torch.ones(64, dtype=torch.int32)), r"bias: found torch\.int32"),
    (lambda: awq(qweight=torch.zeros(256, 8)), "qweight: found .*float32, expected int32"),
    (lambda: awq(qweight=torch.zeros(256, dtype=torch.int32)), "qweight: found 1 axes"),
    (lambda: awq(qzeros=torch.zeros(4, 9, dtype=torch.int32)), r"qzeros: found shape \(4, 9\), expected \(4, 8\)"),
    (lambda: awq(scales=torch.ones(5, 64).half()), r"scales: found shape \(5, 64\), expected \(4, 64\)"),
    (lambda: awq(scales=torch.ones(4, 64).double()), r"scales: found torch\.float64"),
    (
        lambda: awq(scales=torch.ones(4, 64, dtype=torch.complex128)),
        r"scales: found torch\.complex128, expected one of",
    ),
    (
        lambda: awq(scales=torch.ones(4, 64).to_sparse()),
        r"scales: found layout torch\.sparse_coo, expected torch\.strided",
    ),
    (lambda: awq(x=NESTED), r"x: found a nested tensor, expected torch\.strided"),
    (lambda: awq(scales=None), "scales: found NoneType"),
    (lambda: awq(group_size=0), "group_size: found 0"),
    (lambda: awq(group_size=-2), "group_size: found -2"),
    (lambda: awq(group_size=64.0), r"group_size: found 64\.0, expected an integer"),
    (lambda: awq(pack_factor=4), "pack_factor: found 4, expected 8 codes of 4 bits"),
    (lambda: gptq(weight_bits=5), "weight_bits: found 5, expected 2, 3, 4 or 8"),
    (lambda: gptq(weight_bits=8), "scales: found shape"),
    (lambda: gptq(g_idx=order(_7=4)), "g_idx: found groups 0 to 4, expected 0 to 3"),
    (lambda: gptq(g_idx=order(_0=-1)), "g_idx: found groups -1 to 3"),
    (lambda: gptq(g_idx=order()[:-1]), r"g_idx: found shape \(255,\), expected \(256,\)"),
    (lambda: gptq(g_idx=order().float()), "g_idx: found .*float32, expected int32"),
    (lambda: gptq(g_idx=3), "g_idx: found int, expected a torch.Tensor"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 31, 1, 32), "type: found 31"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 9999999999999, 1, 32), "type: found 9999999999999"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), -1, 1, 32), "type: found -1"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), "Q8_0", 1, 32), "quant_type: found 'Q8_0'"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).char(), 8, 1, 32), "blocks: found .*int8, expected uint8"),
    (lambda: gguf_dequant_on_mps(torch.zeros(33).byte(), 8, 1, 32), "blocks: found 33 bytes, expected 34"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 8, 1, 31), r"shape: found \(1, 31\)"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 8, -1, 32), r"shape: found \(-1, 32\)"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 8, 1, 32, torch.float64), r"dtype: found torch\.float64"),
    (lambda: gguf_dequant_on_mps(torch.zeros(34).byte(), 8, 2**31, 0), "shape: axis: found 2147483648"),
    (lambda: gguf_dequant_on_mps(None, 8, 1, 32), "W: found NoneType"),
    (lambda: dequant_int4.dequantize_gptq(*[None] * 5, 2), "zero_adj: found 2, expected 1"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=range(len(WRONG)))
def test_the_error_names_what_was_found(wrong, message):
    with pytest.raises(FormatError, match=message):
        wrong()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_cpu_x_with_cuda_weights():
    layer, config = awq_layer()
    layer = SimpleNamespace(**{name: tensor.cuda() for name, tensor in vars(layer).items()})
    with pytest.raises(FormatError, match="x: found device cpu, expected cuda:0 as qweight"):
        awq_dequant_matmul(ONES, layer, None, config)


def mutations(rng):
    """Ways to spoil a tensor, some of which leave it valid."""
    return [
        lambda t: t,
        lambda t: t[..., : rng.randrange(t.shape[-1] + 1)],
        lambda t: t[: rng.randrange(t.shape[0] + 1)],
        lambda t: t.movedim(0, -1),
        lambda t: t.reshape(-1),
        lambda t: t.unsqueeze(rng.randrange(t.ndim + 1)),
        lambda t: t.to(rng.choice([torch.float16, torch.float32, torch.int32, torch.int64, torch.uint8, torch.bool])),
        lambda t: torch.cat([t, t], rng.randrange(t.ndim)),
        lambda t: t.flip(0),
        lambda t: t[:0],
        lambda t: t.expand(2, *t.shape),
        lambda t: None,
        lambda t: "tensor",
        lambda t: t.to("meta"),
        lambda t: torch.randint(-(2**31), 2**31, t.shape, dtype=torch.int32),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_spoiled_layers_raise_or_are_right(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    right = 0
    for _ in range(100):
        is_awq = rng.random() < 0.5
        layer, config = awq_layer(64, 32, 16) if is_awq else gptq_layer(64, 32, 16, act_order=rng.random() < 0.5)
        parts = {**vars(layer), "x": torch.randn(3, 64).half(), "bias": torch.randn(32).half()}
        for name in rng.sample(list(parts), rng.choice([0, 1, 1, 2])):
            parts[name] = rng.choice(mutations(rng))(parts[name])
        config.group_size = rng.choice([16, 16, 16, 16, -1, 8, 0, 10**12, -(2**40), None, 2.5, 64])
        x, bias = parts.pop("x"), parts.pop("bias")
        layer = SimpleNamespace(**parts)
        try:
            y = (awq_dequant_matmul if is_awq else gptq_dequant_matmul)(x, layer, bias, config)
        except FormatError as error:
            assert ": found" in str(error)
            continue
        right += 1
        tensors = [parts["qweight"], parts["scales"].double(), parts["qzeros"]]
        if is_awq:
            plain = awq_plain(*tensors, config.group_size)
        else:
            plain = gptq_plain(*tensors, parts["g_idx"], config.group_size)
        assert_product(y, x, plain, bias)
    assert 5 < right < 95
    gc.collect()


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_with_any_numbers_raise_or_fit(seed):
    rng = random.Random(seed)
    for _ in range(200):
        blocks = torch.randint(0, 256, (rng.choice([0, 1, 18, 34, 144, 210, 2 * 144]),), dtype=torch.uint8)
        m, n = rng.choice([0, 1, 2, -3, 2**40]), rng.choice([0, 32, 64, 256, 257, 2**62])
        try:
            found = gguf_dequant_on_mps(blocks, rng.randrange(-2, 50), m, n)
        except FormatError as error:
            assert ": found" in str(error)
        else:
            assert found.shape == (m, n)
