"""What the bridge's tests share: the arithmetic in plain torch, random layers, bits."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import torch

from mlx_dequant import current_backend
from mlx_dequant.bridges import dense_products
from mlx_dequant.diagnostics import bounds, compare, sample_weights

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


def _layer(name, inputs, outputs, group_size, dtype, seed, g_idx=""):
    """A sample weight's tensors; scales of 0, -3 and a subnormal, and extreme zero points, are planted."""
    rng = np.random.default_rng(seed)
    weight = sample_weights.groups(name, rng, inputs, outputs, group_size, mx.float32, plain=True, g_idx=g_idx)
    arrays = {key: torch.from_numpy(np.array(array)) for key, array in weight.arrays.items() if array is not None}
    arrays |= {key: arrays[key].view(torch.int32) for key in ("qweight", "qzeros")}
    arrays["scales"][0, :3] = torch.tensor([0.0, -3.0, 6e-8])
    arrays["qzeros"][0, :2] = torch.tensor([0, -1])
    return SimpleNamespace(**arrays | {"scales": arrays["scales"].to(dtype)})


def awq_layer(inputs=256, outputs=64, group_size=64, dtype=torch.float16, seed=0):
    layer = _layer("awq4", inputs, outputs, group_size, dtype, seed)
    return layer, SimpleNamespace(group_size=group_size, pack_factor=8)


def gptq_layer(inputs=256, outputs=64, group_size=64, bits=4, dtype=torch.float16, act_order=False, seed=0):
    g_idx = "shuffled" if act_order else ""
    layer = _layer(f"gptq{bits}", inputs, outputs, group_size, dtype, seed, g_idx)
    # A weight keeps no index of one group; a layer may have one.
    layer.g_idx = getattr(layer, "g_idx", torch.zeros(inputs if act_order else 0, dtype=torch.int32))
    return layer, SimpleNamespace(group_size=group_size, weight_bits=bits)


def assert_bits(found, expected):
    """The same dtype, shape and bits; a NaN for a NaN."""
    assert (found.dtype, found.shape, found.device) == (expected.dtype, expected.shape, expected.device)
    whole = {2: torch.int16, 4: torch.int32}[found.element_size()]
    same = (found.contiguous().view(whole) == expected.contiguous().view(whole)) | (found.isnan() & expected.isnan())
    assert same.all(), f"{(~same).sum()} of {same.numel()} differ, first at {(~same).nonzero()[0].tolist()}"


def assert_product(found, x, dense, bias=None):
    """`found` is x @ dense + bias in x's dtype; `dense` is exact (made with scales in double)."""
    dtype = getattr(mx, str(x.dtype).removeprefix("torch."))
    rows = x.double().reshape(-1, x.shape[-1]).cpu().numpy()
    rounds = bounds.rounds_weights(current_backend(), len(rows)) or dense_products.chosen(x)
    added = None if bias is None else bias.double().cpu().numpy()
    expected = bounds.matmul_bound(rows, dense.double().cpu().numpy(), dtype, rounds, bias=added)
    assert (found.dtype, found.shape) == (x.dtype, (*x.shape[:-1], dense.shape[-1]))
    result = compare.within(found.double().reshape(len(rows), dense.shape[-1]).cpu().numpy(), *expected)
    assert not result.wrong, str(result)
