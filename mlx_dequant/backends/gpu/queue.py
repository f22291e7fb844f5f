"""Products by whole dequantized matrices, of which MLX may hold a few at a time.

Without a limit it would dequantize a whole prompt's layers ahead of their products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import mlx.core as mx

LIMIT = 256 << 20  # bytes of dequantized matrices; two are allowed in any case


class _Waiting(threading.local):
    """This thread's products that may not have their values yet, oldest first.

    Each is a marker, which has its value when the product does and keeps no memory of it, and the bytes of the matrix.
    """

    def __init__(self) -> None:
        self.products: list[tuple[mx.array, int]] = []


_waiting = _Waiting()


def queued(nbytes: int, product: Callable[..., mx.array], *operands: Any) -> mx.array:
    """A product for which a matrix of so many bytes is dequantized: waits for room, and begins to compute it.

    Inside `mx.compile` and `mx.vmap` waiting is not possible, and MLX decides.
    """
    products = _waiting.products
    while len(products) > 1 and nbytes + sum(size for _, size in products) > LIMIT:
        marker, _ = products.pop(0)
        mx.eval(marker)
    made = product(*operands)
    with suppress(ValueError):
        marker = made.reshape(-1)[:1] + 0
        mx.async_eval(made, marker)
        products.append((marker, nbytes))
    return made
