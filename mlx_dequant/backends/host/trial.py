"""The first use of a compiled primitive, in a process that may crash: what it computes must be what the driver does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ...encoded import EncodedMatrix
from ...registry import formats
from . import driver, layers, lazy
from .gather import gather
from .matmul import gather_matmul, matmul

ROWS, COLUMNS = 48, 64


def run() -> None:
    """Multiplies by a small Q8_0 matrix, looks up its rows and goes through experts: lazily, compiled, and at once.
    Computes what lies between products as MLX does.

    Raises:
        RuntimeError: there is no primitive, or a result differs.
    """
    blocks = np.random.default_rng(0).integers(0, 256, (2, ROWS, COLUMNS // 32, 34), np.uint8)
    blocks[..., :2] = np.array([1], np.float16).view(np.uint8)
    form, sizes = formats()["q8_0"], {"blocks_per_row": COLUMNS // 32}
    arrays = {"blocks": mx.array(blocks.reshape(2, ROWS, -1))}
    stack = EncodedMatrix(arrays, form, 2 * ROWS, COLUMNS, loader_params=sizes, experts=2)
    matrix = stack.expert(1)
    mx.eval(matrix.arrays["blocks"])
    ids = mx.array([[0, 1], [1, 1], [-1, 0]])
    for dtype in driver.TYPES:
        for rows in (1, 3):
            x = mx.random.normal((rows, COLUMNS)).astype(dtype)
            _compare("a product", lambda x: matmul(matrix, x, True), x)
            _compare("a product with W", lambda x: matmul(matrix, x @ mx.ones((COLUMNS, ROWS)), False), x)
            _compare("experts", lambda x, ids: gather_matmul(stack, x, ids, True), x, ids[:rows])
        _compare("a look-up", lambda ids, dtype=dtype: gather(matrix, ids.reshape(-1), dtype, 0), ids)
    q, k = mx.random.normal((2, 4, 3, COLUMNS)), mx.random.normal((2, 2, 5, COLUMNS))
    angles: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 3}
    for ours, expected in (
        (layers.rms_norm(q, q[0, 0, 0], 1e-5), mx.fast.rms_norm(q, q[0, 0, 0], 1e-5)),
        (layers.rope(q, COLUMNS, **angles), mx.fast.rope(q, COLUMNS, **angles)),
        (layers.attention(q, k, k, scale=0.1), mx.fast.scaled_dot_product_attention(q, k, k, scale=0.1)),
        (layers.swiglu(q, q), q * mx.sigmoid(q) * q),
    ):
        if ours is None or not mx.allclose(ours, expected, 1e-4, 1e-4):
            raise RuntimeError("a layer: found other results than MLX's")


def _compare(what: str, work: Callable[..., mx.array], *inputs: mx.array) -> None:
    if lazy.primitive() is None:
        raise RuntimeError("the primitive cannot be loaded")
    results = [mx.array(np.array(run(*inputs).astype(mx.float32))) for run in (work, mx.compile(work))]
    with lazy.at_once():
        expected = work(*inputs).astype(mx.float32)
    if not all(mx.array_equal(result, expected) for result in results):
        raise RuntimeError(f"{what}: found other results than those of the loops themselves")
