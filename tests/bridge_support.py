"""What the bridge's tests share: the arithmetic in plain torch, random layers, bits."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mlx_dequant import current_backend

AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def awq_plain(qweight, scales, qzeros, group_size):
    """(weight - zero) * scale, nibble by nibble, in the scales' dtype."""

    def unpacked(words):
        return torch.stack([words >> shift & 15 for shift in AWQ_SHIFTS], dim=-1).flatten(-2)

    inputs = qweight.shape[0]
    group = torch.arange(inputs) // (inputs if group_size == -1 else group_size)
    return (unpacked(qweight) - unpacked(qzeros)[group]) * scales[group]


def fields(words, bits):
    """The codes of a stream of `bits`-bit codes along the last axis, lowest bits first."""
    stream = torch.stack([words >> at & 1 for at in range(32)], dim=-1).flatten(-2)
    codes = stream.reshape(*words.shape[:-1], -1, bits)
    return (codes << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def gptq_plain(qweight, scales, qzeros, g_idx, group_size, use_v2_format=False, bits=4):
    """(weight - zero) * scale; zeros plus one per field, without wrap, unless v2."""
    weight = fields(qweight.T, bits).T
    zero = fields(qzeros, bits) + (0 if use_v2_format else 1)
    inputs = weight.shape[0]
    if g_idx is None or g_idx.numel() == 0:
        g_idx = torch.arange(inputs) // (inputs if group_size == -1 else group_size)
    group = g_idx.long()
    return (weight - zero[group]) * scales[group]


def words(*shape, generator):
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=generator)


def scales_of(groups, outputs, dtype, generator):
    """Both signs, small and large, zero and a subnormal of float16 among them."""
    scales = torch.randn(groups, outputs, generator=generator) * 0.02
    scales[0, :3] = torch.tensor([0.0, -3.0, 6e-8])
    return scales.to(dtype)


def awq_layer(inputs=256, outputs=64, group_size=64, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if group_size == -1 else -(-inputs // group_size)
    layer = SimpleNamespace(
        qweight=words(inputs, outputs // 8, generator=generator),
        qzeros=words(groups, outputs // 8, generator=generator),
        scales=scales_of(groups, outputs, dtype, generator),
    )
    layer.qzeros[0, 0] = 0
    layer.qzeros[0, 1] = -1
    return layer, SimpleNamespace(group_size=group_size, pack_factor=8)


def gptq_layer(inputs=256, outputs=64, group_size=64, bits=4, dtype=torch.float16, act_order=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if group_size == -1 else -(-inputs // group_size)
    layer = SimpleNamespace(
        qweight=words(inputs * bits // 32, outputs, generator=generator),
        qzeros=words(groups, outputs * bits // 32, generator=generator),
        scales=scales_of(groups, outputs, dtype, generator),
        g_idx=torch.empty(0, dtype=torch.int32),
    )
    layer.qzeros[0, 0] = 0
    layer.qzeros[0, 1] = -1
    if act_order:
        order = torch.arange(inputs, dtype=torch.int32) // (inputs if group_size == -1 else group_size)
        layer.g_idx = order[torch.randperm(inputs, generator=generator)]
    return layer, SimpleNamespace(group_size=group_size, weight_bits=bits)


def assert_bits(found, expected):
    """The same dtype, shape and bits; a NaN for a NaN."""
    assert (found.dtype, found.shape, found.device) == (expected.dtype, expected.shape, expected.device)
    whole = {2: torch.int16, 4: torch.int32}[found.element_size()]
    same = (found.contiguous().view(whole) == expected.contiguous().view(whole)) | (found.isnan() & expected.isnan())
    assert same.all(), f"{(~same).sum()} of {same.numel()} differ, first at {(~same).nonzero()[0].tolist()}"


def assert_product(found, x, dense, bias=None):
    """`found` is x @ dense + bias in x's dtype, within the roundings of that dtype and of a float32 sum.

    `dense` is exact (made with scales in double): no weight is rounded before it is multiplied. The sum's
    error is bounded by 2^-20 of the sum of magnitudes (a float32 sum of a few hundred terms); the product
    is then rounded once to x's dtype, and once more when the bias is added.
    """
    exact = x.double() @ dense.double()
    magnitude = x.double().abs() @ dense.double().abs()
    if bias is not None:
        exact = exact + bias.double()
        magnitude = magnitude + bias.double().abs()
    assert (found.dtype, found.shape) == (x.dtype, exact.shape)
    sums = 2**-20
    if current_backend() in ("metal", "cuda") and x.numel() > 16 * x.shape[-1]:
        sums += torch.finfo(x.dtype).eps / 2  # There the weights of a wide product are rounded to x's dtype.
    bound = magnitude * sums + 2 * torch.finfo(x.dtype).eps * (exact.abs() + (0 if bias is None else bias.abs()))
    assert ((found.double() - exact).abs() <= bound + torch.finfo(x.dtype).smallest_normal).all()
