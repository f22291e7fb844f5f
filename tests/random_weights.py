"""Packed weights of random bits, of any format and of awkward shapes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

GROUP_FORMATS = [name for name, form in mxd.formats().items() if form.family != "gguf"]
GGUF_FORMATS = [name for name, form in mxd.formats().items() if form.family == "gguf"]


def _words(rng: np.random.Generator, *shape: int) -> mx.array:
    return mx.array(rng.integers(0, 1 << 32, shape, np.uint32))


def _scales(rng: np.random.Generator, shape: tuple[int, int], dtype: mx.Dtype, wild: bool) -> mx.array:
    """Plain numbers of both signs; when `wild`, any bits: infinities, NaNs and subnormals too."""
    if wild:
        scales = mx.view(_words(rng, *shape), dtype)
        return scales[:, : shape[1]]
    return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)


def gguf(name: str, rng: np.random.Generator, rows: int, columns: int) -> mxd.GGUFWeight:
    """Any bytes: `columns` is rounded up to whole blocks."""
    form = mxd.formats()[name]
    blocks = -(-columns // form.weights)
    return mxd.GGUFWeight(rng.integers(0, 256, (rows, blocks * form.bytes), np.uint8), name)


def groups(
    name: str,
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    group_size: int = 16,
    scales: mx.Dtype = mx.float16,
    wild: bool = True,
    act_order: bool = False,
    zeros: str = "v1",
) -> mxd.QuantizedWeight:
    """A weight of a group format; `inputs` and `outputs` are rounded up to what it can have.

    Args:
        zeros: GPTQ's `zero_points`; for compressed-tensors "none" leaves the tensor out.
    """
    form = mxd.formats()[name]
    bits = form.bits
    whole = 32 if bits == 3 else 32 // bits
    if form.family != "compressed_tensors":
        outputs = -(-outputs // whole) * whole
    if form.family == "gptq":
        inputs = -(-inputs // whole) * whole
    count = 1 if group_size == -1 else -(-inputs // group_size)
    index = rng.integers(0, count, inputs).astype(np.int32) if act_order else None
    if form.family == "awq":
        values = _scales(rng, (count, outputs), scales, wild)
        return mxd.AWQWeight(_words(rng, inputs, outputs // 8), values, _words(rng, count, outputs // 8), group_size)
    if form.family == "gptq":
        return mxd.GPTQWeight(
            _words(rng, inputs * bits // 32, outputs),
            _scales(rng, (count, outputs), scales, wild),
            _words(rng, count, outputs * bits // 32),
            index,
            group_size,
            bits,
            zeros,
        )
    return mxd.CompressedTensorsWeight(
        _words(rng, outputs, -(-inputs * bits // 32)),
        _scales(rng, (outputs, count), scales, wild),
        (outputs, inputs),
        None if zeros == "none" else _words(rng, -(-outputs * bits // 32), count),
        index,
        bits,
        group_size,
    )
