"""Where one way of multiplying becomes faster than another: measured, in one table (bench/NOTES.md)."""

from __future__ import annotations

import mlx.core as mx

# Ways to multiply and the vectors from which each is taken, best for many last. "packed" unpacks
# into registers, 8 vectors a pass; "tiled" into threadgroup memory; "unpacked" a part of the
# weight, for MLX's dense product. The last two round weights to x's type, as dense layers do, so up
# to 16 vectors, where the promise is float32's error, "packed" goes on though tiles would be faster
# from 5. Never measured on Metal: the numbers there are CUDA's.
_WAYS = {
    "metal": {"packed": 1, "tiled": 17, "unpacked": 385},
    "cuda": {"packed": 1, "tiled": 17, "unpacked": 385},
}

# Tiles are of two-byte types. In float32 the dense product may use TF32, so it waits until it saves
# much.
_FLOAT32 = {"packed": 1, "unpacked": 129}

# Fewer rows than this leave a GPU idle with a simdgroup a row: eight share one then.
FEW_ROWS = 2048

# Threadgroups that a transposed product spreads over.
GROUPS = 264

# Threadgroups that an H100 holds at once, by vectors of a tile: three or two on each of 132
# processors, as registers allow.
TILED_GROUPS = {32: 396, 64: 264, 128: 264}


def way(target: str, dtype: mx.Dtype, vectors: int) -> str:
    """How to multiply: "packed", "tiled" or "unpacked"."""
    ways = _FLOAT32 if dtype == mx.float32 else _WAYS[target]
    return max((name for name, least in ways.items() if vectors >= least), key=ways.__getitem__)
