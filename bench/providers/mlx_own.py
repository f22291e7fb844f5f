"""MLX's own quantization, on the same codes, where its format allows."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.backends.arrays import numpy as plain

from ...backends import GPUS
from ...diagnostics.bounds import Allowance
from ...diagnostics.compare import as_float32
from ..cases import Case
from ..data import Data
from . import LeftOut, Provider, Ready
from .ours import wait

BITS = (2, 4, 8)
MOST_ROWS = 16  # of x, on CUDA
ROUNDS = 2.0**-8  # scale times code, and its sum with the bias, both rounded: shares of the largest weight
SLACK = {"float16": 1, "bfloat16": 8, "float32": 2**-13}


class MLXOwn:
    """`mx.dequantize` and `mx.quantized_matmul`, with scales in the case's dtype."""

    name = "MLX own"
    device = "cpu" if mxd.current_backend() not in GPUS else mxd.current_backend()

    def prepare(self, case: Case, data: Data) -> Ready | None:
        made = [converted(w, case.dtype) for w in data.weights[:2]]
        if made[0] is None:
            return None
        if case.case == "linear" and case.M > 1 and case.dtype != "float32" and self.device == "cpu":
            raise LeftOut(f"its CPU matmul in {case.dtype} takes a large part of a second for each row of x")
        if case.case == "linear" and case.M > MOST_ROWS and self.device == "cuda":
            raise LeftOut("its CUDA kernel is for few rows of x, and with many was seen to hang")
        arrays, how = zip(*made, strict=True)
        copies = [arrays[i % 2] for i in range(2)]
        copies += [[array + 0 for array in arrays[i % 2]] for i in range(len(data.weights) - 2)]
        mx.eval(copies)
        settings = how[0]
        ids = [mx.array(each) for each in data.ids]

        def call(i: int) -> Any:
            arrays = copies[i % len(copies)]
            if case.case == "linear":
                return mx.quantized_matmul(data.xs[i % len(data.xs)], *arrays, **settings)
            if case.case == "take":
                arrays = [array[ids[i % len(ids)]] for array in arrays]
            return mx.dequantize(*arrays, **settings, dtype=getattr(mx, case.dtype))

        allowance = Allowance(weight=ROUNDS * SLACK[case.dtype], why=f"works in {case.dtype}")
        return Ready(call, wait, as_float32, allowance)


def converted(w: mxd.QuantizedWeight, dtype: str) -> Any:
    """MLX's codes, scales and biases of a weight, and its settings; None where it has no such format."""
    if w.format.name == "mxfp4":
        blocks = np.asarray(w.arrays["blocks"]).reshape(w.out_features, -1, w.format.bytes)
        arrays = [mx.array(words(halves(blocks[:, :, 1:]), 4)), mx.array(blocks[:, :, 0])]
        return arrays, {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    found = affine(w)
    if found is None:
        return None
    q, scales, biases, bits, size = found
    kind = getattr(mx, dtype)
    arrays = [mx.array(words(q, bits)), mx.array(scales).astype(kind), mx.array(biases).astype(kind)]
    return arrays, {"group_size": size, "bits": bits}


def words(q: np.ndarray, bits: int) -> np.ndarray:
    """uint8 codes [out, in] in uint32 words, lowest bits first."""
    octets = q.reshape(len(q), -1, 8 // bits) << bits * np.arange(8 // bits, dtype=np.uint8)
    return np.bitwise_or.reduce(octets, 2).view(np.uint32)


def halves(packed: np.ndarray) -> np.ndarray:
    """[out, in] codes of [out, blocks, 16] bytes: low nibbles are a block's first half."""
    return np.concatenate([packed & 15, packed >> 4], 2).reshape(len(packed), -1)


def fields(packed: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """uint8 codes of words along an axis, lowest bits first."""
    octets = np.ascontiguousarray(np.moveaxis(packed, axis, -1)).view(np.uint8)
    found = octets[..., None] >> bits * np.arange(8 // bits, dtype=np.uint8) & ((1 << bits) - 1)
    return np.moveaxis(found.reshape(*octets.shape[:-1], -1), -1, axis)


def affine(w: mxd.QuantizedWeight) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int] | None:
    """uint8 codes [out, in], scales and biases [out, groups], bits and group size, of weights scale * code + bias."""
    if w.format.family == "gguf":
        return _gguf(w)
    bits, size = w.format.bits, 128  # of every sample layer
    if bits not in BITS or w.arrays.get("g_idx") is not None:
        return None
    scales = plain(w.arrays["scales"]).astype(np.float32)
    if w.format.family == "compressed_tensors":
        q = fields(plain(w.arrays["codes"]), bits, 1)
        zeros = w.arrays["zeros"]
        z = np.full(scales.shape, 1 << bits - 1) if zeros is None else fields(plain(zeros), bits, 0)
        return q, scales, scales * -z.astype(np.float32), bits, size
    q = fields(plain(w.arrays["qweight"]), bits, int(w.format.family == "awq"))
    stored = plain(w.arrays["qzeros"]).view(np.uint32)
    plus_one = np.uint32(sum(1 << at for at in range(0, 32, bits)))
    z = fields(stored + plus_one if w.format.family == "gptq" else stored, bits, 1)
    if w.format.family == "awq":
        column = np.arange(w.out_features) // 8 * 8 + np.tile([0, 4, 1, 5, 2, 6, 3, 7], w.out_features // 8)
        q, z = q[:, column], z[:, column]
    return np.ascontiguousarray(q.T), scales.T, (scales * -z.astype(np.float32)).T, bits, size


def _gguf(w: mxd.QuantizedWeight) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int] | None:
    if w.format.name not in ("q4_0", "q4_1", "q8_0"):
        return None
    blocks = np.asarray(w.arrays["blocks"]).reshape(w.out_features, -1, w.format.bytes)
    d = blocks[:, :, :2].copy().view(np.float16)[..., 0].astype(np.float32)
    if w.format.name == "q8_0":
        return (blocks[:, :, 2:] ^ 0x80).reshape(w.out_features, -1), d, -128 * d, 8, 32
    q = halves(blocks[:, :, -16:])
    bias = -8 * d if w.format.name == "q4_0" else blocks[:, :, 2:4].copy().view(np.float16)[..., 0].astype(np.float32)
    return q, d, bias, 4, 32


def found() -> list[Provider]:
    return [MLXOwn()]
