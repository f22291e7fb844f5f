"""Where one way of multiplying becomes faster than another: measured, in one table (bench/NOTES.md)."""

from __future__ import annotations

import mlx.core as mx

# From this many vectors on, unpacking for MLX's dense product beats products with packed weights.
# Never measured on Metal: the number there is CUDA's.
_MANY = {"metal": 33, "cuda": 33}

# In float32 the dense product may use TF32, so it waits until it saves much.
_MANY_FLOAT32 = 129

# Fewer rows than this leave a GPU idle with a simdgroup a row: eight share one then.
FEW_ROWS = 2048

# Threadgroups that a transposed product spreads over.
GROUPS = 1024


def many(target: str, dtype: mx.Dtype) -> int:
    """Vectors from which the weight is unpacked."""
    return _MANY_FLOAT32 if dtype == mx.float32 else _MANY[target]
