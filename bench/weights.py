"""Random weights of every format, with scales like real ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd

# Where a GGUF block holds float16 scales; random bytes there would be NaN now and then.
_F16_AT = {
    "f16": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,),
    "q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
    "iq1_s": (0,), "iq2_xxs": (0,), "iq2_xs": (0,), "iq2_s": (0,), "iq3_xxs": (0,), "iq3_s": (0,),
    "iq4_nl": (0,), "iq4_xs": (0,), "tq1_0": (52,), "tq2_0": (64,), "q1_0": (0,), "q2_0": (0,),
}  # fmt: skip

# Names beside the formats' own: what a benchmark also tells apart.
VARIANTS = ("gptq4-act", "gptq3-act", "ct4-act")


def names() -> list[str]:
    """Every format and variant that `weight` makes."""
    return [*mxd.formats(), *VARIANTS]


def weight(name: str, outputs: int, inputs: int, seed: int = 0) -> mxd.QuantizedWeight:
    """A random weight of a linear layer, groups of 128, float16 scales.

    Args:
        name: a format, or one of `VARIANTS` ("-act": with act-order).
        outputs: a multiple of 32, and of 16 for a quick start with large ones.
        inputs: a multiple of 256.
    """
    rng = np.random.default_rng(seed)
    base, _, variant = name.partition("-")
    form = mxd.formats()[base]
    if form.family == "gguf":
        return mxd.GGUFWeight(_blocks(rng, form, outputs, inputs), base)
    groups = inputs // 128
    order = rng.permutation(np.arange(inputs, dtype=np.int32) // 128) if variant == "act" else None
    if form.family == "awq":
        return mxd.AWQWeight(
            _words(rng, inputs, outputs // 8), _scales(rng, groups, outputs), _words(rng, groups, outputs // 8)
        )
    if form.family == "gptq":
        return mxd.GPTQWeight(
            _words(rng, inputs * form.bits // 32, outputs),
            _scales(rng, groups, outputs),
            _words(rng, groups, outputs * form.bits // 32),
            order,
            bits=form.bits,
        )
    return mxd.CompressedTensorsWeight(
        _words(rng, outputs, inputs * form.bits // 32),
        _scales(rng, outputs, groups),
        (outputs, inputs),
        _words(rng, outputs * form.bits // 32, groups),
        order,
        bits=form.bits,
    )


def _tiled(make: np.ndarray, rows: int) -> mx.array:
    """`make` over and over, to `rows`: large random arrays take long to draw."""
    part = mx.array(make)
    return mx.concatenate([part] * -(-rows // len(make)))[:rows] if rows > len(make) else part


def _words(rng: np.random.Generator, rows: int, columns: int) -> mx.array:
    drawn = rng.integers(-(2**31), 2**31, (min(rows, 1024), columns)).astype(np.int32)
    return _tiled(drawn, rows)


def _scales(rng: np.random.Generator, rows: int, columns: int) -> mx.array:
    return mx.array((rng.random((rows, columns)) * 0.02 + 0.001).astype(np.float16))


def _blocks(rng: np.random.Generator, form: mxd.Format, rows: int, columns: int) -> mx.array:
    drawn = min(rows, 512)
    if form.name in ("f32", "bf16"):
        values = rng.standard_normal((drawn, columns)).astype(np.float32) * 0.02
        words = values if form.name == "f32" else (values.view(np.uint32) >> 16).astype(np.uint16)
        return _tiled(words.view(np.uint8), rows)
    blocks = rng.integers(0, 256, (drawn, columns // form.weights, form.bytes), dtype=np.uint8)
    for at in _F16_AT.get(form.name, ()):
        scale = (rng.random(blocks.shape[:2]) * 0.01 + 0.001).astype(np.float16)
        blocks[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    if form.name == "mxfp4":
        blocks[:, :, 0] = rng.integers(115, 125, blocks.shape[:2])
    if form.name == "iq1_m":
        blocks[:, :, 49:56:2] &= 0x0F  # a float16 of 0x1800 or so
        blocks[:, :, 55] |= 0x10
        blocks[:, :, 53] |= 0x80
    if form.name == "nvfp4":
        blocks[:, :, :4] = rng.integers(8, 64, (*blocks.shape[:2], 4))
    return _tiled(blocks.reshape(drawn, -1), rows)
