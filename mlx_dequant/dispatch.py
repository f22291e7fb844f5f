"""Where one way of multiplying becomes faster than another: measured, in one table (bench/NOTES.md)."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import mlx.core as mx

from .dtypes import is_stored
from .kernel_source import NOT_BFLOAT16, REORDER, REORDER_WHOLE, TILES, Kernel, Tile, mma_least, reorder_whole

if TYPE_CHECKING:
    from ..weights.base import QuantizedWeight

# Ways to multiply and the vectors from which each is taken, best for many last. "packed" unpacks
# into registers, 8 vectors a pass; "tiled" into matrices; "unpacked" a part of the weight, for MLX's
# dense product. The last two round weights to x's type, as dense layers do, so up to 16 vectors,
# where the promise is float32's error, "packed" goes on though tiles would be faster from 5. Never
# measured on Metal, nor on CUDA devices other than Hopper, where tiles stay ahead for good.
_OTHERS = {"packed": 1, "tiled": 17, "unpacked": 385}
_HOPPER = {"packed": 1, "tiled": 17}

# Where inputs of a lane have scales of their own, as Hopper took them. GPTQ looks them up for two outputs at once,
# which only Hopper is known to gain from.
_LOOKED_UP = {"packed": 1, "tiled": 17, "unpacked": 257}
_LOOKED_UP_BY_TWO = {"packed": 1, "tiled": 17, "unpacked": 769}

# Tiles are of two-byte types, and need what CUDA devices have since sm_80. In float32 the dense
# product may use TF32, so it waits until it saves much.
_NO_TILES = {"packed": 1, "unpacked": 129}

# Fewer rows than this leave a GPU idle with a simdgroup for some: eight share them then. For one vector, four
# share long ones anyway.
FEW_ROWS = 2048
LONG_ROWS = 4096

# Threadgroups that a transposed product spreads over, and of one vector: as many as an H100 holds at once.
GROUPS = 264
SINGLE_GROUPS = {"awq": 528, "gptq": 396}

# Vectors that are reordered by a threadgroup each: fewer would leave a GPU idle.
WHOLE_VECTORS = 64

# Threadgroups that an H100 holds at once, by vectors of a tile: two or one on each of 132 processors,
# as registers allow. Not known of other devices.
TILED_GROUPS = {32: 264, 64: 264, 128: 132, 256: 132}

# Multiplications from which clusters share x, on Hopper. Other streams wait for the one that they need (gpu.py).
CLUSTERED = 2**37


@cache
def generation(target: str) -> int:
    """What a CUDA device can do, 80 or 90 say; 0 for other devices and where it is not known."""
    said = mx.device_info(mx.gpu).get("architecture", "") if target == "cuda" else ""
    return int(re.sub(r"\D", "", str(said)) or 0)


def way(target: str, dtype: mx.Dtype, vectors: int, weight: QuantizedWeight | None = None) -> str:
    """How to multiply: "packed", "tiled", "unpacked", or "stored" by MLX as it is. Without a weight, as most."""
    hopper = generation(target) == 90
    # Tiles have no room to bring weights of four bytes ahead.
    ways = _HOPPER if hopper and not (weight is not None and weight.format.name == "f32") else _OTHERS
    if weight is not None and _is_looked_up(weight):
        ways = _LOOKED_UP_BY_TWO if hopper and weight.has_g_idx and weight.by_inputs else _LOOKED_UP
    if dtype == mx.float32 or (target == "cuda" and generation(target) < 80):
        ways = _NO_TILES
    found = max((name for name, least in ways.items() if vectors >= least), key=ways.__getitem__)
    stored = weight is not None and is_stored(weight.format.name, dtype)
    return "stored" if stored and found != "packed" else found


def _is_looked_up(weight: QuantizedWeight) -> bool:
    """Whether the 32 inputs that a lane of a tile takes may be of several groups."""
    return weight.has_g_idx or (weight.by_inputs and weight.layout[0] % 32 != 0)


def groups(family: str, vectors: int) -> int:
    """Threadgroups that a transposed product of few vectors spreads over."""
    return SINGLE_GROUPS.get(family, GROUPS) if vectors == 1 else GROUPS


def mma_run(target: str, dtype: mx.Dtype, vectors: int, weight: QuantizedWeight) -> int:
    """Inputs that a lane takes where up to 8 vectors are multiplied by mma.sync, or 0 where they are not.

    Four lanes' inputs have to share a scale, and codes have to be exact in float16 and in x's type. To make bfloat16 of
    them costs more, so that begins a vector later.
    """
    form = weight.format
    bfloat = dtype == mx.bfloat16
    exact = dtype == mx.float16 or (bfloat and form.name not in NOT_BFLOAT16)
    scaled = form.family == "gguf" or weight.scales_dtype == mx.float16
    # What a lane reads at once has to be there, and aligned.
    whole = weight.columns % 8 == 0 if weight.by_inputs else weight.rows >= 8
    aligned = form.family != "compressed_tensors" or weight.columns % 32 == 0
    if generation(target) < 80 or weight.has_g_idx or not (exact and scaled and whole and aligned):
        return 0
    size = form.weights if form.family == "gguf" else weight.layout[0]
    least = mma_least(form)
    return next((run for run in least if size % (4 * run) == 0 and vectors >= least[run] + bfloat), 0)


def split(vectors: int, rows: int, columns: int) -> int:
    """Simdgroups that share rows in a product of few vectors."""
    if rows < FEW_ROWS:
        return 8
    return 4 if vectors == 1 and columns >= LONG_ROWS else 1


def tile(target: str, by_inputs: bool, vectors: int, outputs: int, inputs: int) -> Tile:
    """What a product is made of: the smallest tile that has all of the vectors, or the largest."""
    every = TILES["hopper" if generation(target) == 90 else target][by_inputs]
    many = vectors * outputs * inputs >= CLUSTERED
    fitting = [one for one in every if many or one.cluster == 1]
    enough = [one for one in fitting if one.vectors >= vectors] or fitting[-1:]
    return min(enough, key=lambda one: (one.vectors, -one.cluster))


def reorder(target: str, vectors: int, size: int) -> Kernel:
    """What puts vectors of `size` bytes in another order: in threadgroup memory, where they fit."""
    most = 48 if target == "cuda" and generation(target) < 80 else 99
    fitting = [each for each in REORDER_WHOLE[target] if size <= 1024 * each and each <= most]
    return reorder_whole(fitting[0]) if fitting and vectors >= WHOLE_VECTORS else REORDER
